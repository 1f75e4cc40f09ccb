//! Tunnels of two or three PoPs over a simulated network, in virtual time.

mod bus;
mod certificates;
mod datagrams;
mod handshake;
mod path;
mod random;
mod streams;
mod world;
