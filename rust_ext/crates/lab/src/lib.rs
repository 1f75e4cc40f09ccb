//! The WAN emulator: a whole network's delay, loss and bandwidth on one machine, without netem.
//!
//! - [`link`]: what one directed link does to one packet: rate, queue, loss, delay, jitter. Pure.
//! - [`network`]: many links, one schedule of packets under way. Pure: time is an argument, randomness is seeded.
//! - [`packet`]: reads the two addresses of an IP packet; nothing else of a packet matters here.
//! - [`lateness`]: how much later than due packets were handed over; the emulator's own error bar.
//! - [`device`]: a host's TUN device, or its veth pair where TUN is refused.
//! - [`emulator`]: the shell: one thread that joins a [`network::Network`] to TUN devices or veth ends of network namespaces.
//!
//! Tests of other crates use [`network::Network`] alone: `send` on a link, `poll_delivery` when it is due.
//! What it does not do: reorder packets that jitter was not told to reorder, duplicate, corrupt, or shape by flow.

pub mod device;
pub mod emulator;
pub mod error;
pub mod lateness;
pub mod link;
pub mod network;
pub mod packet;
mod random;
