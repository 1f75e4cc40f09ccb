//! Steering: the kernel program that gives each overlay packet to its worker's socket (docs/protocol.md, section 1).
//!
//! Two things that a user of this must know:
//! - The program sees a merged datagram (UDP_GRO) once, by its first packet. The kernel merges by addresses and size, and all workers of
//!   a PoP share one address: a merged datagram may hold packets of several workers. So a sender must not put packets for different
//!   workers into one segmented message, and a receiver must look at the worker byte of each segment again.
//! - The kernel numbers a group's sockets as they were bound, and when one is closed the last takes its number. A group is
//!   replaced whole or not at all.

use crate::sockaddr;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsFd;

/// The furthest byte that is looked at must be there. No packet of the overlay is as short.
const SHORTEST: u32 = 7;
/// First bytes `0x08–0x0c` are our own headers.
const OWN_FIRST: u32 = 0x08;
const OWN_LAST: u32 = 0x0c;
/// Every QUIC packet has this bit (grease is off); our own types have not.
const QUIC_FIXED_BIT: u32 = 0x40;
const QUIC_LONG_HEADER_BIT: u32 = 0x80;
/// Byte of the packet that names the worker.
const OWN_WORKER_BYTE: u32 = 2;
const SHORT_WORKER_BYTE: u32 = 1;
const LONG_WORKER_BYTE: u32 = 6;
/// An index that no group has: the kernel then chooses by its hash, so that junk is spread over all workers.
const BY_HASH: u32 = u32::MAX;

/// Steers the reuseport group that `socket` (bound already) belongs to. The group's sockets must have been bound in the order of
/// their workers, 0 first: the kernel numbers them so. The whole group follows; a second call replaces the program.
pub fn attach(socket: impl AsFd, workers: NonZeroU32) -> io::Result<()> {
    let mut program = program(workers);
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_mut_ptr(),
    };
    sockaddr::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &header)
}

/// Classic BPF over the UDP payload (the kernel has taken the UDP header off); the result is the socket's number in its group.
fn program(workers: NonZeroU32) -> Vec<libc::sock_filter> {
    use libc::{
        BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JA, BPF_JGE, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LEN,
        BPF_MOD, BPF_RET, BPF_W,
    };
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // Jumps count instructions to skip when true (`jt`) or false (`jf`).
    let jump = |test: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (BPF_JMP | test | BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let load_byte = |at: u32| statement(BPF_LD | BPF_B | BPF_ABS, at);
    vec![
        /*  0 */ statement(BPF_LD | BPF_W | BPF_LEN, 0),
        /*  1 */ jump(BPF_JGE, SHORTEST, 0, 12), // too short: 14
        /*  2 */ load_byte(0),
        /*  3 */ jump(BPF_JSET, QUIC_FIXED_BIT, 0, 5), // not QUIC: 9
        /*  4 */ jump(BPF_JSET, QUIC_LONG_HEADER_BIT, 2, 0), // long: 7
        /*  5 */ load_byte(SHORT_WORKER_BYTE),
        /*  6 */ statement(BPF_JMP | BPF_JA, 5), // 12
        /*  7 */ load_byte(LONG_WORKER_BYTE),
        /*  8 */ statement(BPF_JMP | BPF_JA, 3), // 12
        /*  9 */ jump(BPF_JGE, OWN_FIRST, 0, 4), // below: 14
        /* 10 */ jump(BPF_JGT, OWN_LAST, 3, 0), // above: 14
        /* 11 */ load_byte(OWN_WORKER_BYTE),
        /* 12 */ statement(BPF_ALU | BPF_MOD | BPF_K, workers.get()),
        /* 13 */ statement(BPF_RET | BPF_A, 0),
        /* 14 */ statement(BPF_RET | BPF_K, BY_HASH),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::{Outgoing, RecvBatch, SendBatch, UdpSocket};
    use std::net::SocketAddr;

    /// A steered group on one port, and a function that tells who gets a packet.
    struct Group {
        sockets: Vec<UdpSocket>,
        client: UdpSocket,
        address: SocketAddr,
    }

    impl Group {
        fn new(workers: u32, ip: &str) -> Self {
            let first = UdpSocket::bind(SocketAddr::new(ip.parse().unwrap(), 0), true).unwrap();
            let address = first.local_address().unwrap();
            let mut sockets = vec![first];
            sockets.extend((1..workers).map(|_| UdpSocket::bind(address, true).unwrap()));
            attach(&sockets[0], NonZeroU32::new(workers).unwrap()).unwrap();
            let client = UdpSocket::bind(SocketAddr::new(ip.parse().unwrap(), 0), false).unwrap();
            Self { sockets, client, address }
        }

        /// Which worker a packet lands on. Loopback delivers before the send returns.
        fn worker_of(&self, packet: &[u8]) -> u32 {
            let report = SendBatch::new(1).send(&self.client, &[Outgoing::new(packet, Some(self.address))]);
            assert_eq!(report.sent, 1);
            let mut batch = RecvBatch::new(2, 256);
            let mut winner = None;
            for (worker, socket) in (0..).zip(&self.sockets) {
                for _ in 0..batch.recv(socket, 2).unwrap() {
                    assert_eq!(winner.replace(worker), None, "delivered once");
                }
            }
            winner.expect("delivered")
        }
    }

    /// A packet of 64 bytes, 0xee but for the ones given.
    fn packet(bytes: &[(usize, u8)]) -> [u8; 64] {
        let mut packet = [0xee; 64];
        for &(at, value) in bytes {
            packet[at] = value;
        }
        packet
    }

    #[test]
    fn every_kind_of_packet_lands_on_the_worker_that_it_names() {
        for ip in ["127.0.0.1", "::1"] {
            for workers in 1..=4 {
                let group = Group::new(workers, ip);
                for named in [0u8, 1, 2, 3, 7, 128, 255] {
                    let expected = u32::from(named) % workers;
                    for own in OWN_FIRST..=OWN_LAST {
                        let worker = group.worker_of(&packet(&[(0, own as u8), (2, named)]));
                        assert_eq!(worker, expected, "own {own:#x}, {named} of {workers}, {ip}");
                    }
                    for short in [0x40, 0x5a, 0x7f] {
                        let worker = group.worker_of(&packet(&[(0, short), (1, named)]));
                        assert_eq!(worker, expected, "short {short:#x}, {named} of {workers}");
                    }
                    for long in [0xc0, 0xd3, 0xff] {
                        let worker = group.worker_of(&packet(&[(0, long), (6, named)]));
                        assert_eq!(worker, expected, "long {long:#x}, {named} of {workers}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_shortest_packets_that_name_a_worker_are_steered() {
        let group = Group::new(3, "127.0.0.1");
        assert_eq!(group.worker_of(&packet(&[(0, 0xc0), (6, 2)])[..7]), 2);
        assert_eq!(group.worker_of(&packet(&[(0, 0x40), (1, 2)])[..7]), 2);
        assert_eq!(group.worker_of(&packet(&[(0, 0x0b), (2, 1)])[..7]), 1);
    }

    #[test]
    fn junk_goes_by_the_kernels_hash_and_not_all_to_one_worker() {
        // The hash is of the addresses: one sender meets one worker, many senders meet them all.
        let mut group = Group::new(3, "127.0.0.1");
        let junk: [&[u8]; 7] =
            [b"", b"\x08", b"\xc0\0\0\0\0\x02", &[0x07; 64], &[0x0d; 64], &[0x00; 64], &[0x80; 64]];
        for bytes in junk {
            let mut met = [false; 3];
            for _ in 0..200 {
                group.client = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
                met[group.worker_of(bytes) as usize] = true;
            }
            assert_eq!(met, [true; 3], "{bytes:?}");
        }
    }

    #[test]
    fn a_merged_datagram_goes_whole_to_the_worker_of_its_first_packet() {
        let group = Group::new(2, "127.0.0.1");
        let gro = crate::udp::UdpOptions { gro: true, ..Default::default() };
        for socket in &group.sockets {
            socket.apply(&gro).unwrap();
        }
        let bytes = [packet(&[(0, 0x09), (2, 1)]), packet(&[(0, 0x09), (2, 0)])].concat();
        let segment_size = std::num::NonZeroU16::new(64);
        let message = Outgoing { segment_size, ..Outgoing::new(&bytes, Some(group.address)) };
        assert_eq!(SendBatch::new(1).send(&group.client, &[message]).sent, 1);
        let mut batch = RecvBatch::new(4, 65536);
        assert_eq!(batch.recv(&group.sockets[0], 4).unwrap(), 0);
        assert_eq!(batch.recv(&group.sockets[1], 4).unwrap(), 1);
        let workers: Vec<u8> = batch.get(0).segments().map(|segment| segment[2]).collect();
        assert_eq!(workers, [1, 0], "the second is another worker's: see the module's words");
    }

    #[test]
    fn closing_a_socket_moves_the_last_one_into_its_place() {
        let mut group = Group::new(3, "127.0.0.1");
        drop(group.sockets.remove(0));
        // What were workers 1 and 2, here 0 and 1, have the numbers 1 and 0.
        assert_eq!(group.worker_of(&packet(&[(0, 0x40), (1, 1)])), 0);
        assert_eq!(group.worker_of(&packet(&[(0, 0x40), (1, 0)])), 1);
    }

    #[test]
    fn a_later_program_replaces_the_earlier_one() {
        let group = Group::new(4, "127.0.0.1");
        attach(&group.sockets[3], NonZeroU32::new(2).unwrap()).unwrap();
        assert_eq!(group.worker_of(&packet(&[(0, 0x40), (1, 3)])), 1);
    }
}
