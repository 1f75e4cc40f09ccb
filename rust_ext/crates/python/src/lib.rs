//! What Python may call of the Rust side: conversion, errors, and one door that lets go of the GIL. Nothing is decided here.
//!
//! | module | what |
//! | --- | --- |
//! | `door` | the only way from Python into code that takes time |
//! | `error` | the only translation of errors |
//! | `lab`, `bench` | the WAN emulator and the load generator, dicts in and out |
//! | `relay_bench` | what only `l4proxy bench relay` uses: flows that stay open, ping-pong, floors |

mod bench;
mod door;
mod error;
mod lab;
mod relay_bench;

use pyo3::prelude::*;

/// The compiled half of l4proxy. `l4proxy/_native.pyi` documents it.
#[pymodule]
mod _native {
    use std::num::NonZeroUsize;

    use pyo3::exceptions::PyValueError;
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::bench::{BenchReflector, bench_connect, bench_rtt, bench_throughput};
    #[pymodule_export]
    use crate::lab::LabEmulator;
    #[pymodule_export]
    use crate::relay_bench::{BenchFloor, BenchFlows, bench_ping_pong};
    use l4proxy_engine::{EngineError, ServeOptions};

    /// Run the engine on an inherited listening Unix socket until a daemon ends it.
    #[pyfunction]
    fn serve(
        py: Python<'_>,
        fd: i32,
        workers: usize,
        pop: String,
        overlay_memory_mib: usize,
    ) -> PyResult<()> {
        let overlay_memory_bytes = overlay_memory_mib.saturating_mul(1 << 20);
        let workers =
            NonZeroUsize::new(workers).ok_or_else(|| PyValueError::new_err("workers: 0 is too few"))?;
        crate::door::enter(py, || {
            let listener = l4proxy_io::control::duplicate_inherited(fd)
                .map_err(|source| EngineError::System { what: "fd", source })?;
            l4proxy_engine::serve(listener, ServeOptions { workers, pop, overlay_memory_bytes })
        })
    }
}
