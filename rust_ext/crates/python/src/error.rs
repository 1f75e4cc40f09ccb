//! The one translation: what the kernel refused becomes `OSError` with its errno, a wrong argument `ValueError`.

use l4proxy_engine::EngineError;
use pyo3::PyErr;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};

/// The exception of an engine's error.
pub(crate) fn translate(error: EngineError) -> PyErr {
    let message = error.to_string();
    match error {
        EngineError::TooManyWorkers { .. } => PyValueError::new_err(message),
        EngineError::System { source, .. } => PyOSError::new_err((source.raw_os_error(), message)),
        other => PyRuntimeError::new_err(other.to_string()),
    }
}
