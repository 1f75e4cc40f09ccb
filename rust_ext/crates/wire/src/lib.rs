//! Every encoding of bytes on the network: what PoPs speak to each other (`docs/protocol.md` in code), and who a client is.
//!
//! Bytes in, values out, and back. No socket, no clock, no randomness, no tables: who may send what, and
//! what happens to it, is decided in `proto` and `tunnel`. Nothing here panics on any input; whatever is refused
//! has a [`DropReason`] (packets, which are counted and dropped) or a [`StreamError`] (streams, which end the connection).
//!
//! | module | what |
//! | --- | --- |
//! | [`classify`] | the first byte of a packet |
//! | [`drop_reason`] | why a packet is dropped, by the name that is counted |
//! | [`ids`], [`address`], [`codes`] | the small things that all messages share |
//! | [`keys`] | hop and probe keys, and the SipHash tag made with them |
//! | [`outer`] | the header of a packet that passes transit PoPs (section 2) |
//! | [`channel`] | datagram channel: packet header and frames (section 5) |
//! | [`hello`], [`probe`] | liveness of paths (section 6), measurement of links (section 7) |
//! | [`link_down`] | what a transit PoP says of a link that it has lost (section 8) |
//! | [`open`], [`stream`], [`stripe`] | OPEN, and the messages on QUIC streams (section 4) |
//!
//! Three encodings are not between PoPs but between the edge and the programs on either side of it:
//!
//! | module | what |
//! | --- | --- |
//! | [`client_hello`] | the server name in a TLS ClientHello that passes through |
//! | [`proxy`] | the PROXY protocol, to origins and from load balancers |
//! | [`spp`] | Simple Proxy Protocol, to origins over UDP |

pub mod address;
pub mod channel;
pub mod classify;
pub mod client_hello;
pub mod codes;
pub mod drop_reason;
mod error;
pub mod hello;
pub mod ids;
pub mod keys;
pub mod link_down;
pub mod open;
pub mod outer;
pub mod probe;
pub mod proxy;
mod reader;
pub mod repair;
pub mod spp;
pub mod stream;
pub mod stripe;

pub use drop_reason::DropReason;
pub use error::{EncodeError, Malformed, StreamError};

/// Version of the overlay protocol that this crate speaks; it stands in every packet and message that has a version field.
pub const VERSION: u8 = 1;
