//! Fuzz targets: what strangers and other PoPs can hand to parsers, tables and state machines, as functions of bytes that panic when a promise
//! is broken.
//!
//! Each target has a corpus in `corpus/NAME`, which `cargo test -p l4proxy-fuzz` replays with any compiler. `rust_ext/fuzz` hands the same
//! functions to libFuzzer, which grows the corpora (`make fuzz`). Nothing here knows a clock, a socket or randomness.

mod access;
mod channel;
mod flows;
mod fragments;
mod hellos;
mod outer;
mod probes;
mod proxy;
mod sessions;
mod spp;
mod streams;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

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
/// Packets of the datagram channel: the header, and frames.
pub const CHANNEL: Target = Target { name: "channel", run: channel::run };
/// UDP flows of two PoPs whose channels lose, repeat and reorder, against a model.
pub const FLOWS: Target = Target { name: "flows", run: flows::run };
/// Frames that come in pieces, against a model.
pub const FRAGMENTS: Target = Target { name: "fragments", run: fragments::run };
/// Hellos, and the liveness of paths.
pub const HELLOS: Target = Target { name: "hellos", run: hellos::run };
/// Packets that pass this PoP, against the rules.
pub const OUTER: Target = Target { name: "outer", run: outer::run };
/// Probes: who sends them and who answers.
pub const PROBES: Target = Target { name: "probes", run: probes::run };
/// PROXY headers of version 1, a line of text.
pub const PROXY_V1: Target = Target { name: "proxy_v1", run: proxy::v1 };
/// PROXY headers of version 2, binary.
pub const PROXY_V2: Target = Target { name: "proxy_v2", run: proxy::v2 };
/// The table of UDP sessions against a model.
pub const SESSIONS: Target = Target { name: "sessions", run: sessions::run };
/// Headers of the Simple Proxy Protocol.
pub const SPP: Target = Target { name: "spp", run: spp::run };
/// Messages of streams: control, OPEN and its answers, stripes.
pub const STREAMS: Target = Target { name: "streams", run: streams::run };

/// All of them.
pub const TARGETS: [Target; 12] =
    [ACCESS, CHANNEL, FLOWS, FRAGMENTS, HELLOS, OUTER, PROBES, PROXY_V1, PROXY_V2, SESSIONS, SPP, STREAMS];

impl Target {
    /// Where its corpus lies.
    #[must_use]
    pub fn corpus(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }
}

/// A moment of virtual time. An instant can only be made from a clock; its value is never looked at.
fn at(elapsed: Duration) -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now) + elapsed
}
