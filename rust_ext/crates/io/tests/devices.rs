//! TUN and AF_PACKET, each in a network namespace that lives as long as the test's thread. Skipped without the right to make one.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use l4proxy_io::epoll::{Epoll, Events, Interest};
use l4proxy_io::netns::NetworkNamespace;
use l4proxy_io::packet::{Form, LinkAddress, PacketSocket};
use l4proxy_io::tun::Tun;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// An Ethernet protocol that is reserved for experiments: nobody else's frames carry it.
const EXPERIMENT: u16 = 0x88b5;

/// Runs a test on a thread in a namespace of its own, where `ip` sets things up.
fn in_new_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread's network namespace changes; the thread ends with the test.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
        let ready = unshared && ip("link set lo up") && Path::new("/dev/net/tun").exists();
        if ready {
            test();
        }
        ready
    });
    if !thread.join().unwrap() {
        skip("no right to make a network namespace, no ip command, or no TUN in this kernel");
    }
}

#[allow(clippy::print_stderr, reason = "the only way to tell who runs the tests")]
fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).output().is_ok_and(|output| output.status.success())
}

fn is_up(device: &str) -> bool {
    let shown = Command::new("ip").args(["link", "show", device]).output();
    shown.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("state UP"))
}

/// Waits for what the kernel does in its own time.
fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Calls `take` whenever the descriptor is readable, until it gives something.
fn next<T>(fd: impl AsFd, mut take: impl FnMut() -> Option<T>) -> T {
    let epoll = Epoll::new().unwrap();
    epoll.add(fd, 0, Interest::READ).unwrap();
    let mut events = Events::with_capacity(1);
    for _ in 0..100 {
        if let Some(found) = take() {
            return found;
        }
        epoll.wait(&mut events, Some(Duration::from_secs(5))).unwrap();
    }
    panic!("nothing came")
}

#[test]
fn a_packet_goes_into_the_device_and_its_answer_comes_back() {
    in_new_namespace(|| {
        let tun = Tun::open("l4t0").unwrap();
        assert!(ip("addr add 10.99.0.1/24 dev l4t0") && ip("link set l4t0 up"));
        let socket = UdpSocket::bind("10.99.0.1:0").unwrap();
        socket.send_to(b"echo me", "10.99.0.2:7").unwrap();
        let mut buffer = [0; 2048];
        // The kernel sends packets of its own (IPv6 neighbour discovery) into every new device.
        let length = next(&tun, || {
            let length = tun.recv(&mut buffer).unwrap()?;
            (buffer[0] == 0x45 && buffer[9] == 17).then_some(length)
        });
        assert_eq!(&buffer[28..length], b"echo me", "no header stands before the packet");
        // Exchanging the addresses and the ports leaves both checksums right.
        let mut answer = buffer[..length].to_vec();
        answer.copy_within(12..16, 16);
        answer[12..16].copy_from_slice(&buffer[16..20]);
        answer.copy_within(20..22, 22);
        answer[20..22].copy_from_slice(&buffer[22..24]);
        assert!(tun.send(&answer).unwrap());
        let mut echo = [0; 16];
        let (length, from) = socket.recv_from(&mut echo).unwrap();
        assert_eq!((&echo[..length], from), (&b"echo me"[..], "10.99.0.2:7".parse().unwrap()));
    });
}

#[test]
fn a_device_can_be_made_in_another_namespace_and_used_from_here() {
    in_new_namespace(|| {
        let inside = NetworkNamespace::open(Path::new("/proc/thread-self/ns/net")).unwrap();
        let outside = std::thread::spawn(move || {
            // SAFETY: as above.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            inside.run(|| Tun::open("l4t1")).unwrap()
        });
        let tun = outside.join().unwrap();
        assert_eq!(tun.name(), "l4t1");
        assert!(ip("link show l4t1"), "the device is in our namespace");
        drop(tun);
        // A process that another test is just starting holds the descriptor until it has become another program.
        eventually("it vanishes when dropped", || {
            !Path::new("/proc/thread-self/net/dev_snmp6/l4t1").exists()
        });
    });
}

#[test]
fn frames_cross_a_pair_of_interfaces_in_both_forms() {
    in_new_namespace(|| {
        assert!(ip("link add l4a type veth peer name l4b") && ip("link set l4a up") && ip("link set l4b up"));
        // What is sent before the kernel has noticed the carrier is dropped.
        eventually("the pair is up", || ["l4a", "l4b"].iter().all(|name| is_up(name)));
        let take = |socket: &PacketSocket| {
            let mut buffer = [0; 2048];
            next(socket, || {
                let (length, link) = socket.recv(&mut buffer).unwrap()?;
                (link.protocol == EXPERIMENT).then(|| (buffer[..length].to_vec(), link))
            })
        };
        let broadcast = LinkAddress { protocol: EXPERIMENT, hardware: [0xff; 6] };
        let here = PacketSocket::open("l4a", Form::Ethernet).unwrap();
        let there = PacketSocket::open("l4b", Form::Cooked).unwrap();

        let mut frame = [[0xff; 6], [2, 0, 0, 0, 0, 9]].concat();
        frame.extend(EXPERIMENT.to_be_bytes());
        frame.extend([7; 50]);
        assert!(here.send(&frame, &broadcast).unwrap());
        let (packet, link) = take(&there);
        assert_eq!(
            (packet, link.hardware),
            (vec![7; 50], [2, 0, 0, 0, 0, 9]),
            "the header is taken off and told apart"
        );

        assert!(there.send(&[8; 60], &broadcast).unwrap());
        let (answer, _) = take(&here);
        assert_eq!((&answer[..6], &answer[12..14]), (&[0xff; 6][..], &EXPERIMENT.to_be_bytes()[..]));
        assert_eq!(&answer[14..], [8; 60]);
        // What this side sent itself is not seen again.
        let mut buffer = [0; 2048];
        while let Some((_, link)) = here.recv(&mut buffer).unwrap() {
            assert_ne!(link.protocol, EXPERIMENT);
        }
    });
}

#[test]
fn names_that_cannot_be_are_refused() {
    for name in ["", "sixteen-bytes-ab", "a\0b"] {
        assert!(Tun::open(name).is_err());
    }
    assert!(PacketSocket::open("l4-not-there", Form::Cooked).is_err());
}
