//! Sockets and nothing else: the only crate with `unsafe`. It decides nothing; every call is one kernel facility with a safe face.

pub mod control;
pub mod epoll;
pub mod limits;
pub mod netns;
pub mod packet;
pub mod splice;
pub mod steer;
pub mod tcp;
pub mod threads;
pub mod tun;
pub mod udp;
