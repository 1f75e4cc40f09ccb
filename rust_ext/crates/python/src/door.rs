//! The one door: let go of the GIL, do the work, translate what went wrong.

use l4proxy_engine::EngineError;
use pyo3::prelude::*;

use crate::error::engine_error;

/// Do work that takes time. Other Python threads run meanwhile; a panic becomes Python's `PanicException`.
pub(crate) fn enter<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, EngineError> + Send,
) -> PyResult<T> {
    py.detach(work).map_err(engine_error)
}
