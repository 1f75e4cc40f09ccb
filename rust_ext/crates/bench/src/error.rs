//! What can keep a benchmark from running. A target that answers badly is a result, not an error.

use std::io;
use std::net::SocketAddr;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The caller asked for something that cannot be done. The caller's fault.
    #[error("{option}: {reason}")]
    Option {
        /// Which option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The target refused or did not answer before anything could be measured. The target's fault; worth another try.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// The address.
        target: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The target ended a connection that it should have kept. The target's fault.
    #[error("{target} closed the connection {when}")]
    Closed {
        /// The address.
        target: SocketAddr,
        /// What was going on.
        when: &'static str,
    },
    /// This machine refused a socket, a port or memory.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BenchError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
