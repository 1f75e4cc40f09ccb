//! Tunnels of two or three PoPs over a simulated network, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one event among all")]

mod bulk;
mod bus;
mod certificates;
mod credit;
mod crowds;
mod datagrams;
mod downloads;
mod epochs;
mod faults;
mod forge;
mod handshake;
mod interop;
mod moves;
mod path;
mod random;
mod repairs;
mod revocation;
mod sizes;
mod strangers;
mod streams;
mod unknown_addresses;
mod warmth;
mod world;
