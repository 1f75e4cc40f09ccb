//! Running out of descriptors. Alone in its program, because the limit is the whole process's.

use l4proxy_io::tcp::{self, Accepted};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::net::TcpStream;

#[test]
fn accepting_without_a_descriptor_left_is_told_apart_and_loses_no_connection() {
    let listener = tcp::listen("127.0.0.1:0".parse().unwrap(), 16, false).unwrap();
    let client = TcpStream::connect(tcp::local_address(&listener).unwrap()).unwrap();
    let limits = l4proxy_io::limits::open_files();
    // Descriptors below the limit may be free: fill them.
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(limits.hard) }).unwrap();
    let fill: Vec<_> = (0..64).map_while(|_| rustix::io::dup(&listener).ok()).collect();
    assert!(matches!(tcp::accept(&listener), Accepted::FdLimit));
    assert!(matches!(tcp::accept(&listener), Accepted::FdLimit));
    drop(fill);
    let Accepted::Connection(_, peer) = tcp::accept(&listener) else { panic!("the connection has waited") };
    assert_eq!(peer, client.local_addr().unwrap());
}
