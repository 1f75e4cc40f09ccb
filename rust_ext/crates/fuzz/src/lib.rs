//! Fuzz targets: what strangers can hand to the parsers and tables of the edge, as functions of bytes that panic when a promise is broken.
//!
//! Each target has a corpus in `corpus/NAME`, which `cargo test -p l4proxy-fuzz` replays with any compiler. `rust_ext/fuzz` hands the same
//! functions to libFuzzer, which grows the corpora (`make fuzz`). Nothing here knows a clock, a socket or randomness.

mod access;
mod proxy;
mod sessions;
mod spp;

use std::path::PathBuf;

/// One function of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Also the name of its corpus.
    pub name: &'static str,
    /// Panics when a promise is broken.
    pub run: fn(&[u8]),
}

/// Access lists: packed prefixes, and the table that is made of them, against a look at every prefix.
pub const ACCESS: Target = Target { name: "access", run: access::run };
/// PROXY headers of version 1, a line of text.
pub const PROXY_V1: Target = Target { name: "proxy_v1", run: proxy::v1 };
/// PROXY headers of version 2, binary.
pub const PROXY_V2: Target = Target { name: "proxy_v2", run: proxy::v2 };
/// The table of UDP sessions against a model.
pub const SESSIONS: Target = Target { name: "sessions", run: sessions::run };
/// Headers of the Simple Proxy Protocol.
pub const SPP: Target = Target { name: "spp", run: spp::run };

/// All of them.
pub const TARGETS: [Target; 5] = [ACCESS, PROXY_V1, PROXY_V2, SESSIONS, SPP];

impl Target {
    /// Where its corpus lies.
    #[must_use]
    pub fn corpus(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }
}
