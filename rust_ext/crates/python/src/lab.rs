//! The WAN emulator for Python: dicts in, dicts out. What it does stands in `l4proxy_lab`.

use l4proxy_lab::device::{DeviceConfig, Wire};
use l4proxy_lab::emulator::{Emulator, EmulatorConfig};
use l4proxy_lab::link::LinkProperties;
use l4proxy_lab::network::{LinkConfig, NetworkConfig};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::collections::HashMap;
use std::net::IpAddr;

use crate::error::lab_error;

/// A running WAN emulator: one thread that joins hosts' devices over links with delay, loss and rate.
#[pyclass(module = "l4proxy._native", frozen)]
pub(crate) struct LabEmulator {
    emulator: Emulator,
}

/// One host, as Python describes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Host {
    name: String,
    /// `tun` or `veth`.
    wire: String,
    namespace: String,
    device: String,
    /// Hardware address of the host's end, `02:…`.
    mac: String,
}

/// One directed link, as Python describes it; hosts by name.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Link {
    name: String,
    from_host: String,
    to_host: String,
    pairs: Vec<[String; 2]>,
    properties: Properties,
}

/// [`LinkProperties`] as a dict with the same names.
#[derive(FromPyObject, IntoPyObject)]
#[pyo3(from_item_all)]
struct Properties {
    delay_ns: u64,
    jitter_ns: u64,
    reorder: bool,
    loss_ratio: f64,
    burst_loss_ratio: f64,
    burst_packets: f64,
    rate_bits_s: Option<u64>,
    queue_bytes: u64,
    cut: bool,
}

impl From<Properties> for LinkProperties {
    fn from(given: Properties) -> Self {
        let Properties { delay_ns, jitter_ns, reorder, loss_ratio, .. } = given;
        let Properties { burst_loss_ratio, burst_packets, rate_bits_s, queue_bytes, cut, .. } = given;
        Self {
            delay_ns,
            jitter_ns,
            reorder,
            loss_ratio,
            burst_loss_ratio,
            burst_packets,
            rate_bits_s,
            queue_bytes,
            cut,
        }
    }
}

impl From<LinkProperties> for Properties {
    fn from(given: LinkProperties) -> Self {
        let LinkProperties {
            delay_ns,
            jitter_ns,
            reorder,
            loss_ratio,
            burst_loss_ratio,
            burst_packets,
            rate_bits_s,
            queue_bytes,
            cut,
        } = given;
        Self {
            delay_ns,
            jitter_ns,
            reorder,
            loss_ratio,
            burst_loss_ratio,
            burst_packets,
            rate_bits_s,
            queue_bytes,
            cut,
        }
    }
}

#[pymethods]
impl LabEmulator {
    #[new]
    fn new(py: Python<'_>, hosts: Vec<Host>, links: Vec<Link>, seed: u64, precise: bool) -> PyResult<Self> {
        let numbers: HashMap<&str, usize> =
            hosts.iter().enumerate().map(|(index, host)| (host.name.as_str(), index)).collect();
        let links = links.into_iter().map(|link| link_config(link, &numbers)).collect::<PyResult<_>>()?;
        let devices = hosts.iter().map(device_config).collect::<PyResult<_>>()?;
        let network = NetworkConfig { links, seed, ..Default::default() };
        let config = EmulatorConfig { devices, network, precise };
        let emulator = py.detach(|| Emulator::start(config)).map_err(lab_error)?;
        Ok(Self { emulator })
    }

    /// Replace the properties of a link: a dict with every field of `properties`.
    fn set_link(&self, name: &str, properties: Properties) -> PyResult<()> {
        self.emulator.set(name, properties.into()).map_err(lab_error)
    }

    /// Return the properties of a link.
    fn properties(&self, name: &str) -> PyResult<Properties> {
        Ok(self.emulator.properties(name).map_err(lab_error)?.into())
    }

    /// Return every counter, and the lateness since the last reset.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.emulator.stats();
        let links = PyList::empty(py);
        for (name, counters) in &stats.links {
            let link = counts(
                py,
                &[
                    ("sent", counters.sent),
                    ("delivered", counters.delivered),
                    ("delivered_bytes", counters.delivered_bytes),
                    ("lost_random", counters.lost_random),
                    ("lost_burst", counters.lost_burst),
                    ("dropped_queue", counters.dropped_queue),
                    ("dropped_cut", counters.dropped_cut),
                    ("dropped_memory", counters.dropped_memory),
                    ("dropped_device", counters.dropped_device),
                ],
            )?;
            link.set_item("name", name)?;
            links.append(link)?;
        }
        let lateness = counts(
            py,
            &[
                ("packets", stats.lateness.packets),
                ("late_packets", stats.lateness.late_packets),
                ("p50_us", stats.lateness.p50_us),
                ("p99_us", stats.lateness.p99_us),
                ("max_us", stats.lateness.max_us),
            ],
        )?;
        let answer = counts(
            py,
            &[
                ("not_ip", stats.network.not_ip),
                ("unknown_destination", stats.network.unknown_destination),
                ("wrong_host", stats.network.wrong_host),
                ("not_routable", stats.network.not_routable),
                ("under_way", stats.under_way as u64),
                ("peak_bytes", stats.peak_bytes as u64),
                ("lost_devices", stats.lost_devices),
                ("overruns", stats.overruns),
            ],
        )?;
        answer.set_item("running", stats.running)?;
        answer.set_item("links", links)?;
        answer.set_item("lateness", lateness)?;
        Ok(answer)
    }

    /// Begin a new measurement of lateness.
    fn reset_lateness(&self) {
        self.emulator.reset_lateness();
    }

    /// Stop the thread and close the devices. Stopping twice is fine.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.emulator.stop());
    }
}

fn counts<'py>(py: Python<'py>, values: &[(&str, u64)]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in values {
        dict.set_item(name, value)?;
    }
    Ok(dict)
}

fn device_config(host: &Host) -> PyResult<DeviceConfig> {
    let wire = match host.wire.as_str() {
        "tun" => Wire::Tun,
        "veth" => Wire::Veth(hardware_address(&host.mac)?),
        other => return Err(PyValueError::new_err(format!("wire {other}: neither tun nor veth"))),
    };
    Ok(DeviceConfig {
        host: host.name.clone(),
        wire,
        namespace: (&host.namespace).into(),
        device: host.device.clone(),
    })
}

fn hardware_address(text: &str) -> PyResult<[u8; 6]> {
    let bytes = text.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<Vec<_>, _>>();
    bytes
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| PyValueError::new_err(format!("{text}: not a hardware address")))
}

fn link_config(link: Link, hosts: &HashMap<&str, usize>) -> PyResult<LinkConfig> {
    let number = |host: &str| {
        let unknown = || PyValueError::new_err(format!("link {}: there is no host {host}", link.name));
        hosts.get(host).copied().ok_or_else(unknown)
    };
    let address = |text: &str| {
        let wrong = |_| PyValueError::new_err(format!("link {}: {text}: not an IP address", link.name));
        text.parse::<IpAddr>().map_err(wrong)
    };
    let (from_host, to_host) = (number(&link.from_host)?, number(&link.to_host)?);
    let pairs = link.pairs.iter().map(|[a, b]| Ok((address(a)?, address(b)?))).collect::<PyResult<_>>()?;
    Ok(LinkConfig { name: link.name, from_host, to_host, pairs, properties: link.properties.into() })
}
