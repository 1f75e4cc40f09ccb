//! The load generator for Python: dicts in, dicts out, Ctrl-C in between. What it does stands in `l4proxy_bench`.

use l4proxy_bench::connect::{self, Close, ConnectOptions, ConnectReport, Pacing};
use l4proxy_bench::error::BenchError;
use l4proxy_bench::latency::Quantiles;
use l4proxy_bench::reflect::{ReflectReport, Reflector};
use l4proxy_bench::rtt::{self, Protocol, RttOptions, RttReport};
use l4proxy_bench::throughput::{self, ThroughputOptions, ThroughputReport};
use l4proxy_bench::{Stop, Wait};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::error::bench_error;

/// How often a running benchmark looks whether Python has had a signal.
const SIGNAL_CHECK: Duration = Duration::from_millis(50);

/// Options of [`bench_rtt`], as a dict.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Rtt {
    target: String,
    protocol: String,
    rate_pps: f64,
    size: usize,
    duration_s: f64,
    flows: usize,
    linger_s: f64,
    poll: bool,
}

/// Options of [`bench_throughput`], as a dict.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Throughput {
    target: String,
    flows: usize,
    duration_s: f64,
    bytes: Option<u64>,
    reverse: bool,
}

/// Options of [`bench_connect`], as a dict.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Connect {
    target: String,
    rate_per_s: f64,
    /// Instead of the rate.
    in_flight: Option<usize>,
    duration_s: f64,
    timeout_s: f64,
    reset: bool,
    poll: bool,
}

/// Round trips by a schedule.
#[pyfunction]
pub(crate) fn bench_rtt<'py>(py: Python<'py>, options: Rtt) -> PyResult<Bound<'py, PyDict>> {
    let options = RttOptions {
        target: address(&options.target)?,
        protocol: protocol(&options.protocol)?,
        rate_pps: options.rate_pps,
        size: options.size,
        duration: duration("duration", options.duration_s)?,
        flows: options.flows,
        linger: duration("linger", options.linger_s)?,
        wait: wait(options.poll),
    };
    let report = interruptible(py, &Stop::default(), |stop| rtt::run(&options, stop))?;
    round_trips(py, &report)
}

pub(crate) fn round_trips<'py>(py: Python<'py>, report: &RttReport) -> PyResult<Bound<'py, PyDict>> {
    let RttReport {
        sent,
        received,
        rate_pps,
        rtt_us,
        from_send_us,
        loss_ratio,
        reordered,
        duplicates,
        late_sends,
        late_us_max,
        not_sent,
        errors,
        foreign,
        stopped,
    } = *report;
    let answer = PyDict::new(py);
    answer.set_item("sent", sent)?;
    answer.set_item("received", received)?;
    answer.set_item("rate_pps", rate_pps)?;
    answer.set_item("rtt_us", quantiles(py, &rtt_us)?)?;
    answer.set_item("from_send_us", quantiles(py, &from_send_us)?)?;
    answer.set_item("loss_ratio", loss_ratio)?;
    answer.set_item("reordered", reordered)?;
    answer.set_item("duplicates", duplicates)?;
    answer.set_item("late_sends", late_sends)?;
    answer.set_item("late_us_max", late_us_max)?;
    answer.set_item("not_sent", not_sent)?;
    answer.set_item("errors", errors)?;
    answer.set_item("foreign", foreign)?;
    answer.set_item("stopped", stopped)?;
    Ok(answer)
}

/// Bytes a second.
#[pyfunction]
pub(crate) fn bench_throughput<'py>(py: Python<'py>, options: Throughput) -> PyResult<Bound<'py, PyDict>> {
    let options = ThroughputOptions {
        target: address(&options.target)?,
        flows: options.flows,
        duration: duration("duration", options.duration_s)?,
        bytes: options.bytes,
        reverse: options.reverse,
    };
    let ThroughputReport { bytes, seconds, mbit_s, flows, mbit_s_min, mbit_s_max, retransmits, stopped } =
        interruptible(py, &Stop::default(), |stop| throughput::run(&options, stop))?;
    let answer = PyDict::new(py);
    answer.set_item("bytes", bytes)?;
    answer.set_item("seconds", seconds)?;
    answer.set_item("mbit_s", mbit_s)?;
    answer.set_item("flows", flows)?;
    answer.set_item("mbit_s_min", mbit_s_min)?;
    answer.set_item("mbit_s_max", mbit_s_max)?;
    answer.set_item("retransmits", retransmits)?;
    answer.set_item("stopped", stopped)?;
    Ok(answer)
}

/// Connections a second.
#[pyfunction]
pub(crate) fn bench_connect<'py>(py: Python<'py>, options: Connect) -> PyResult<Bound<'py, PyDict>> {
    let options = ConnectOptions {
        target: address(&options.target)?,
        pacing: options.in_flight.map_or(Pacing::PerSecond(options.rate_per_s), Pacing::InFlight),
        duration: duration("duration", options.duration_s)?,
        timeout: duration("timeout", options.timeout_s)?,
        close: if options.reset { Close::Reset } else { Close::Finish },
        wait: wait(options.poll),
    };
    let ConnectReport {
        connections,
        per_second,
        errors,
        refused,
        closed,
        timed_out,
        too_many_open,
        no_port,
        latency_us,
        handshake_us,
        late_sends,
        stopped,
    } = interruptible(py, &Stop::default(), |stop| connect::run(&options, stop))?;
    let answer = PyDict::new(py);
    answer.set_item("connections", connections)?;
    answer.set_item("per_second", per_second)?;
    answer.set_item("errors", errors)?;
    answer.set_item("refused", refused)?;
    answer.set_item("closed", closed)?;
    answer.set_item("timed_out", timed_out)?;
    answer.set_item("too_many_open", too_many_open)?;
    answer.set_item("no_port", no_port)?;
    answer.set_item("latency_us", quantiles(py, &latency_us)?)?;
    answer.set_item("handshake_us", quantiles(py, &handshake_us)?)?;
    answer.set_item("late_sends", late_sends)?;
    answer.set_item("stopped", stopped)?;
    Ok(answer)
}

/// The other end of the benchmarks, bound at once, serving when `run` is called.
#[pyclass(module = "l4proxy._native", frozen)]
pub(crate) struct BenchReflector {
    /// Taken by the one call of `run`.
    reflector: Mutex<Option<Reflector>>,
    address: SocketAddr,
    stop: Stop,
}

#[pymethods]
impl BenchReflector {
    #[new]
    fn new(listen: &str) -> PyResult<Self> {
        let reflector = Reflector::bind(address(listen)?).map_err(bench_error)?;
        let address = reflector.address();
        Ok(Self { reflector: Mutex::new(Some(reflector)), address, stop: Stop::default() })
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

    /// Serve until `stop`, or until a signal's handler raises, at most for so long.
    fn run<'py>(&self, py: Python<'py>, max_seconds: f64) -> PyResult<Bound<'py, PyDict>> {
        let limit = duration("max_seconds", max_seconds)?;
        let done = || PyRuntimeError::new_err("this reflector has served already");
        let reflector = self.reflector.lock().ok().and_then(|mut held| held.take()).ok_or_else(done)?;
        let ReflectReport {
            datagrams,
            datagram_bytes,
            datagrams_dropped,
            connections,
            connections_refused,
            bytes_in,
            bytes_out,
        } = interruptible(py, &self.stop, |stop| reflector.run(limit, stop))?;
        let answer = PyDict::new(py);
        answer.set_item("datagrams", datagrams)?;
        answer.set_item("datagram_bytes", datagram_bytes)?;
        answer.set_item("datagrams_dropped", datagrams_dropped)?;
        answer.set_item("connections", connections)?;
        answer.set_item("connections_refused", connections_refused)?;
        answer.set_item("bytes_in", bytes_in)?;
        answer.set_item("bytes_out", bytes_out)?;
        Ok(answer)
    }
}

/// Runs `work` on a thread of its own, without the GIL, while this one looks after signals. When a handler raises (Ctrl-C), the work
/// is asked to stop and its result forgotten.
pub(crate) fn interruptible<T: Send>(
    py: Python<'_>,
    stop: &Stop,
    work: impl FnOnce(&Stop) -> Result<T, BenchError> + Send,
) -> PyResult<T> {
    let outcome = py.detach(|| {
        std::thread::scope(|scope| {
            let (send, receive) = channel();
            let thread = scope.spawn(move || {
                let result = work(stop);
                // Nobody listens any more when a signal has ended the wait.
                let _ = send.send(());
                result
            });
            let mut signal = Ok(());
            while let Err(RecvTimeoutError::Timeout) = receive.recv_timeout(SIGNAL_CHECK) {
                signal = Python::attach(|py| py.check_signals());
                if signal.is_err() {
                    stop.set();
                    break;
                }
            }
            let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            signal.map(|()| result)
        })
    });
    outcome?.map_err(bench_error)
}

pub(crate) fn quantiles<'py>(py: Python<'py>, figures: &Quantiles) -> PyResult<Bound<'py, PyDict>> {
    let Quantiles { count, min, mean, p50, p90, p99, p999, max } = *figures;
    let answer = PyDict::new(py);
    answer.set_item("count", count)?;
    let named = [
        ("min", min),
        ("mean", mean),
        ("p50", p50),
        ("p90", p90),
        ("p99", p99),
        ("p999", p999),
        ("max", max),
    ];
    for (name, value) in named {
        answer.set_item(name, value)?;
    }
    Ok(answer)
}

pub(crate) fn protocol(name: &str) -> PyResult<Protocol> {
    match name {
        "udp" => Ok(Protocol::Udp),
        "tcp" => Ok(Protocol::Tcp),
        other => Err(PyValueError::new_err(format!("protocol: {other} is neither udp nor tcp"))),
    }
}

fn wait(poll: bool) -> Wait {
    if poll { Wait::Poll } else { Wait::Sleep }
}

pub(crate) fn address(text: &str) -> PyResult<SocketAddr> {
    text.parse().map_err(|_| PyValueError::new_err(format!("{text}: not ADDR:PORT")))
}

pub(crate) fn duration(option: &str, seconds: f64) -> PyResult<Duration> {
    let wrong = |_| PyValueError::new_err(format!("{option}: {seconds} s is no duration"));
    Duration::try_from_secs_f64(seconds).map_err(wrong)
}
