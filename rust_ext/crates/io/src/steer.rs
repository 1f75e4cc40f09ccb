//! Steering: the kernel program that gives each overlay packet to its worker's socket (docs/protocol.md, section 1).

use crate::sockaddr;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsFd;

/// The furthest byte that is looked at must be there. No packet of the overlay is as short.
const SHORTEST: u32 = 7;
/// First bytes `0x08–0x0b` are our own headers.
const OWN_FIRST: u32 = 0x08;
const OWN_LAST: u32 = 0x0b;
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
