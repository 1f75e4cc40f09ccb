//! The one translation: what the kernel refused becomes `OSError` with its errno, a wrong argument `ValueError`.

use l4proxy_bench::error::BenchError;
use l4proxy_engine::EngineError;
use l4proxy_lab::error::{Fault, LabError};
use pyo3::PyErr;
use pyo3::exceptions::{PyKeyError, PyOSError, PyRuntimeError, PyValueError};

/// The exception of an engine's error.
pub(crate) fn engine_error(error: EngineError) -> PyErr {
    let message = error.to_string();
    match error {
        EngineError::TooManyWorkers { .. } => PyValueError::new_err(message),
        EngineError::System { source, .. } => os_error(source.raw_os_error(), message),
        other => PyRuntimeError::new_err(other.to_string()),
    }
}

/// What the kernel refused becomes an `OSError` with its errno, an unknown link a `KeyError`, a wrong value a `ValueError`.
pub(crate) fn lab_error(error: LabError) -> PyErr {
    let message = error.to_string();
    match error.fault() {
        Fault::System(errno) => os_error(errno, message),
        Fault::UnknownLink => PyKeyError::new_err(message),
        Fault::Value => PyValueError::new_err(message),
    }
}

/// A wrong option becomes a `ValueError`, everything else an `OSError` with its errno.
pub(crate) fn bench_error(error: BenchError) -> PyErr {
    let message = error.to_string();
    match &error {
        BenchError::Option { .. } => PyValueError::new_err(message),
        BenchError::Connect { source, .. } | BenchError::System { source, .. } => {
            os_error(source.raw_os_error(), message)
        }
        BenchError::Closed { .. } | _ => os_error(None, message),
    }
}

/// `OSError` with an errno becomes its own kind, such as `PermissionError`; without one it has only a message.
fn os_error(errno: Option<i32>, message: String) -> PyErr {
    match errno {
        Some(errno) => PyOSError::new_err((errno, message)),
        None => PyOSError::new_err(message),
    }
}
