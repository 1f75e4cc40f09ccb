//! Tunnels between PoPs: QUIC connections with the fleet's own identity check, TCP flows as their streams, UDP flows as
//! datagrams of a sealed channel beside them. Sans-IO: packets, time and calls go in, packets and events come out.
//!
//! | module | what |
//! | --- | --- |
//! | `driver`, `packets` | [`Tunnels`]: all connections of one worker; packets, timers and turns |
//! | `lifecycle` | what QUIC's events mean: handshake, `HELLO`, control messages, the end |
//! | `connection`, `control_stream`, `stream` | the state of one connection, of its control stream, of a flow |
//! | `streams`, `turns`, `stripes` | the calls for TCP flows; who writes when all want to; fast flows over several streams |
//! | `channel`, `cipher`, `replay`, `fragments`, `datagrams` | packets of frames, sealing and opening, the replay window, large frames, the calls for UDP flows |
//! | `epochs` | a connection follows another, so that keys are renewed under traffic |
//! | `identity`, `verifier`, `revocation`, `keys` | who we are, whom we believe and no longer believe, the keys both ends share |
//! | `congestion`, `repair` | how fast a connection sends; a packet that was lost is made of others |
//! | `resend`, `recent` | what a path that died has swallowed goes out again |
//! | `credit`, `memory` | how much of a flow may be on its way; what all connections of the worker may hold |
//! | `split` | QUIC packets that are longer than the path carries, in pieces |
//! | `cids`, `options`, `counters`, `events`, `error` | connection ids that name their worker; settings, totals, vocabulary |
//!
//! Not here: which path a packet takes (the caller has a route handle for each connection), sockets, and the wire format
//! (`l4proxy-wire`, `docs/protocol.md` sections 3 to 5).
//!
//! # The loop around it
//!
//! After every input, poll until there is nothing left; only then wait, no longer than `poll_timeout` says.
//!
//! ```
//! # use std::{num::NonZeroUsize, time::Instant};
//! # use l4proxy_tunnel::{Tunnels, TransmitInfo, TunnelEvent};
//! fn drain(
//!     tunnels: &mut Tunnels,
//!     now: Instant,
//!     buffer: &mut Vec<u8>,
//!     mut send: impl FnMut(&TransmitInfo, &[u8]),
//!     mut on_event: impl FnMut(&mut Tunnels, TunnelEvent),
//! ) -> Option<Instant> {
//!     const MAX_GSO_SEGMENTS: NonZeroUsize = NonZeroUsize::new(40).unwrap();
//!     loop {
//!         // Events first: what they lead to (an answer, more bytes) still goes out in this turn.
//!         while let Some(event) = tunnels.poll_event() {
//!             on_event(tunnels, event);
//!         }
//!         let Some(transmit) = tunnels.poll_transmit(now, buffer, MAX_GSO_SEGMENTS) else { break };
//!         send(&transmit, &buffer[..transmit.size]);
//!     }
//!     tunnels.poll_timeout()
//! }
//! # use l4proxy_tunnel::TunnelOptions;
//! # let own = l4proxy_wire::ids::PopId(1);
//! # let mut tunnels = Tunnels::new(TunnelOptions::new(0, own, [0; 32]));
//! # let next = drain(&mut tunnels, Instant::now(), &mut Vec::new(), |_, _| (), |_, _| ());
//! # assert_eq!(next, None);
//! ```
//!
//! # Invariants
//!
//! - A connection belongs to one worker and one route handle for life: one counter and one replay window for its channel.
//! - Nothing is sent to a PoP that is not in the peer set, and nothing at all without an identity.
//! - Every queue and table has a bound; what does not fit is dropped and counted, or the caller is told to wait.
//! - A stream that ends well on both sides (`finish` called, `read` said `Finished`) ends without an event; any other end
//!   is a `StreamGone` or `StreamRefused`, except after the caller's own `reset` or `refuse`.

mod channel;
mod cids;
mod cipher;
mod congestion;
mod connection;
mod control_stream;
mod counters;
mod credit;
mod datagrams;
mod driver;
mod epochs;
mod error;
mod events;
mod flight;
pub mod fragments;
#[cfg(test)]
mod hostile;
mod identity;
mod keys;
mod lifecycle;
mod memory;
#[cfg(test)]
mod nonces;
mod options;
mod packets;
mod recent;
mod repair;
pub mod replay;
mod resend;
mod retry;
mod revocation;
mod split;
mod stream;
mod streams;
mod stripes;
mod turns;
mod verifier;

pub use congestion::{Measured, PathHint};
pub use counters::{Counters, HandshakeFailure};
pub use datagrams::Received;
pub use driver::{NOBODY, Tunnels};
pub use error::{ConnectError, DropReason, IdentityError, PeerCertificateError, SendError};
pub use events::{
    ConnectionKey, ConnectionState, ConnectionStats, ConnectionView, Loss, ReturnAddress, StreamRead,
    StreamWrite, TransmitInfo, TransmitKind, TunnelEvent, TunnelStream,
};
pub use identity::{ALPN, Identity};
pub use l4proxy_wire::stream::Role;
pub use options::{DatagramMode, MAX_PACKET, MIN_PACKET, STREAM_WINDOW, TunnelOptions};
pub use revocation::Revoked;
pub use rustls::time_provider::TimeProvider;
