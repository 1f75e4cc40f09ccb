//! What only `l4proxy bench relay` uses: flows that stay open, ping-pong, and the floors. What they do stands in `l4proxy_bench`.

use l4proxy_bench::floors::{Floor, FloorOptions, FloorReport, Relay};
use l4proxy_bench::ping_pong::{self, PingPongOptions, PingPongReport};
use l4proxy_bench::rtt::{Flood, FloodReport, Flows, Protocol, RttOptions};
use l4proxy_bench::{Stop, Wait};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::bench::{address, duration, interruptible, protocol, quantiles, round_trips};
use crate::error::bench_error;

/// How long a run waits for its last answers.
const LINGER: Duration = Duration::from_millis(200);

/// Options of [`bench_ping_pong`], as a dict.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct PingPong {
    target: String,
    protocol: String,
    size: usize,
    duration_s: f64,
}

/// Round trips of one message at a time.
#[pyfunction]
pub(crate) fn bench_ping_pong<'py>(py: Python<'py>, options: PingPong) -> PyResult<Bound<'py, PyDict>> {
    let options = PingPongOptions {
        target: address(&options.target)?,
        protocol: protocol(&options.protocol)?,
        size: options.size,
        duration: duration("duration", options.duration_s)?,
    };
    let PingPongReport { round_trip_us, lost, stopped } =
        interruptible(py, &Stop::default(), |stop| ping_pong::run(&options, stop))?;
    let answer = PyDict::new(py);
    answer.set_item("round_trip_us", quantiles(py, &round_trip_us)?)?;
    answer.set_item("lost", lost)?;
    answer.set_item("stopped", stopped)?;
    Ok(answer)
}

/// Datagram flows that stay open over several runs.
#[pyclass(module = "l4proxy._native", frozen)]
pub(crate) struct BenchFlows(Mutex<Flows>);

#[pymethods]
impl BenchFlows {
    #[new]
    fn new(target: &str, flows: usize, size: usize) -> PyResult<Self> {
        let options = RttOptions {
            target: address(target)?,
            protocol: Protocol::Udp,
            rate_pps: 1.0,
            size,
            duration: LINGER,
            flows,
            linger: LINGER,
            wait: Wait::Sleep,
        };
        Ok(Self(Mutex::new(Flows::open(options).map_err(bench_error)?)))
    }

    /// Round trips by a schedule.
    fn run<'py>(&self, py: Python<'py>, rate_pps: f64, duration_s: f64) -> PyResult<Bound<'py, PyDict>> {
        let duration = duration("duration", duration_s)?;
        let flows = &mut *self.free()?;
        let report = interruptible(py, &Stop::default(), |stop| flows.run(rate_pps, duration, stop))?;
        round_trips(py, &report)
    }

    /// As fast as answers come.
    fn flood<'py>(&self, py: Python<'py>, window: usize, duration_s: f64) -> PyResult<Bound<'py, PyDict>> {
        let flood = Flood { window, duration: duration("duration", duration_s)? };
        let flows = &mut *self.free()?;
        let FloodReport { sent, received, lost, per_second, stopped } =
            interruptible(py, &Stop::default(), |stop| flows.flood(flood, stop))?;
        let answer = PyDict::new(py);
        answer.set_item("sent", sent)?;
        answer.set_item("received", received)?;
        answer.set_item("lost", lost)?;
        answer.set_item("per_second", per_second)?;
        answer.set_item("stopped", stopped)?;
        Ok(answer)
    }
}

impl BenchFlows {
    /// The flows, unless a run is going on.
    fn free(&self) -> PyResult<MutexGuard<'_, Flows>> {
        self.0.try_lock().map_err(|_| PyRuntimeError::new_err("these flows are in a run already"))
    }
}

/// The least that a relay can do, bound at once, relaying when `run` is called.
#[pyclass(module = "l4proxy._native", frozen)]
pub(crate) struct BenchFloor {
    /// Taken by the one call of `run`.
    relay: Mutex<Option<Relay>>,
    address: SocketAddr,
    stop: Stop,
}

#[pymethods]
impl BenchFloor {
    #[new]
    #[pyo3(signature = (floor, listen, origin, identity=None))]
    fn new(floor: &str, listen: &str, origin: &str, identity: Option<PathBuf>) -> PyResult<Self> {
        let floor = match floor {
            "splice" => Floor::Splice,
            "copy" => Floor::Copy,
            "udp" => Floor::Udp,
            "quic-ingress" => Floor::QuicIngress,
            "quic-egress" => Floor::QuicEgress,
            other => return Err(PyValueError::new_err(format!("floor: no {other}"))),
        };
        let options = FloorOptions { floor, listen: address(listen)?, origin: address(origin)?, identity };
        let relay = Relay::bind(&options).map_err(bench_error)?;
        let address = relay.address();
        Ok(Self { relay: Mutex::new(Some(relay)), address, stop: Stop::default() })
    }

    /// Where it is bound.
    #[getter]
    fn address(&self) -> String {
        self.address.to_string()
    }

    /// End `run`, from a signal handler or another thread.
    fn stop(&self) {
        self.stop.set();
    }

    /// Relay until `stop`, or until a signal's handler raises, at most for so long.
    fn run<'py>(&self, py: Python<'py>, max_seconds: f64) -> PyResult<Bound<'py, PyDict>> {
        let limit = duration("max_seconds", max_seconds)?;
        let done = || PyRuntimeError::new_err("this floor has relayed already");
        let relay = self.relay.lock().ok().and_then(|mut held| held.take()).ok_or_else(done)?;
        let FloorReport { flows, refused } = interruptible(py, &self.stop, |stop| relay.run(limit, stop))?;
        let answer = PyDict::new(py);
        answer.set_item("flows", flows)?;
        answer.set_item("refused", refused)?;
        Ok(answer)
    }
}
