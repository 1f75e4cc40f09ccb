//! A real engine on real loopback sockets, with a daemon played by the tests. What is exact is tested in virtual time elsewhere;
//! here is what only a kernel can say: order of bytes, resets, source addresses, descriptors.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(unreachable_pub, reason = "the modules of one test program")]

mod access;
mod control;
mod denied;
mod identity;
mod origins;
mod overlay;
mod tcp;
mod tcp_conversations;
mod udp;
mod udp_truth;
mod value;
mod whois;
mod world;
