//! Speaking with a client's address, in a network namespace that lives as long as the test's thread. Skipped without the right to
//! make one; that the right is missing is tested where it is.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use l4proxy_io::epoll::{Epoll, Events, Interest};
use l4proxy_io::source::{ConnectError, Source, connect_tcp, connect_udp};
use l4proxy_io::tcp;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).output().is_ok_and(|output| output.status.success())
}

/// Runs a test on a thread in a namespace of its own, in which every address of 198.51.100.0/24 and 2001:db8:c::/48 is answered
/// from: what a host's route through the relay does for real clients.
fn in_new_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread's network namespace changes; the thread ends with the test.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
        let ready = unshared
            && ip("link set lo up")
            && ip("route add local 198.51.100.0/24 dev lo")
            && ip("-6 route add local 2001:db8:c::/48 dev lo");
        if ready {
            test();
        }
        ready
    });
    if !thread.join().unwrap() {
        skip("no right to make a network namespace, or no ip command");
    }
}

#[allow(clippy::print_stderr, reason = "the only way to tell who runs the tests")]
fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

fn finished(fd: impl AsFd) {
    let epoll = Epoll::new().unwrap();
    epoll.add(fd.as_fd(), 0, Interest::WRITE).unwrap();
    assert_eq!(epoll.wait(&mut Events::with_capacity(1), Some(Duration::from_secs(10))).unwrap(), 1);
    assert!(tcp::take_error(fd.as_fd()).unwrap().is_none());
}

#[test]
fn the_origin_sees_the_client_and_its_port() {
    in_new_namespace(|| {
        for (own, client) in [("127.0.0.1:0", "198.51.100.7:40001"), ("[::1]:0", "[2001:db8:c::7]:40001")] {
            let client: SocketAddr = client.parse().unwrap();
            let origin = TcpListener::bind(own).unwrap();
            let fd = connect_tcp(origin.local_addr().unwrap(), Source::Client(client)).unwrap();
            finished(&fd);
            assert_eq!(origin.accept().unwrap().1, client);

            let origin = UdpSocket::bind(own).unwrap();
            let socket = connect_udp(origin.local_addr().unwrap(), Source::Client(client)).unwrap();
            socket.send(b"x").unwrap();
            assert_eq!(origin.recv_from(&mut [0; 1]).unwrap().1, client);
        }
    });
}

/// One client, two flows from one port to one origin (two apps lead to it): the second is still the client, from another port.
#[test]
fn a_port_that_is_taken_is_replaced_and_the_address_never() {
    in_new_namespace(|| {
        let client: SocketAddr = "198.51.100.8:40002".parse().unwrap();
        let origin = TcpListener::bind("127.0.0.1:0").unwrap();
        let held: Vec<_> = (0..3)
            .map(|_| {
                let fd = connect_tcp(origin.local_addr().unwrap(), Source::Client(client)).unwrap();
                finished(&fd);
                (fd, origin.accept().unwrap().1)
            })
            .collect();
        assert_eq!(held[0].1, client);
        assert!(held[1..].iter().all(|(_, peer)| peer.ip() == client.ip() && peer.port() != client.port()));

        let origin = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sockets =
            [0; 2].map(|_| connect_udp(origin.local_addr().unwrap(), Source::Client(client)).unwrap());
        assert_eq!(sockets[0].local_address().unwrap(), client);
        let other = sockets[1].local_address().unwrap();
        assert!(other.ip() == client.ip() && other.port() != client.port());
    });
}

/// One port of a client towards several origins.
#[test]
fn one_port_serves_two_origins() {
    in_new_namespace(|| {
        let client: SocketAddr = "198.51.100.9:40003".parse().unwrap();
        let origins = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let held = [0, 1].map(|index: usize| {
            let fd = connect_tcp(origins[index].local_addr().unwrap(), Source::Client(client)).unwrap();
            finished(&fd);
            fd
        });
        assert!(held.iter().all(|fd| tcp::local_address(fd).unwrap() == client));
    });
}

/// Whoever may not is told so, and gets no socket that would speak with the proxy's own address.
#[test]
fn without_the_right_there_is_no_socket() {
    let thread = std::thread::spawn(|| {
        // SAFETY: setresuid through the raw call changes this thread's ids only, and the thread ends with the test.
        let dropped = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) } == 0;
        // SAFETY: no arguments, and it cannot fail.
        if !dropped && unsafe { libc::geteuid() } == 0 {
            return skip("this user may not become another one");
        }
        let client = Source::Client("198.51.100.7:40001".parse().unwrap());
        let to = "127.0.0.1:9".parse().unwrap();
        assert!(matches!(connect_tcp(to, client), Err(ConnectError::NotPermitted)));
        assert!(matches!(connect_udp(to, client), Err(ConnectError::NotPermitted)));
    });
    thread.join().unwrap();
}
