//! Datagrams out: batches from one socket, and what each error is counted as. Whatever goes wrong is one datagram's.

use std::io;

use l4proxy_io::Sent;
use l4proxy_io::tcp::is_local_shortage;
use l4proxy_io::udp::{Outgoing, SendBatch, Stop, UdpSocket};
use rustix::io::Errno;

use super::super::reach::Unreached;
use crate::counters::Dropped;

/// What an error of a datagram is counted as.
///
/// | counted as | what the kernel means |
/// | --- | --- |
/// | refused | the other host has nobody at that port, or no UDP at all (ICMP) |
/// | unreachable | no route, neighbour, interface or source address; a router or firewall, here or on the way, forbids it (ICMP, netfilter) |
/// | too large | beyond 65,507 bytes, or beyond what the way takes in one piece |
/// | full | the socket's buffer, the interface's queue or memory |
/// | failed | anything else: nobody has told us what it would mean |
pub(crate) fn dropped_by(error: &io::Error) -> Dropped {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED | Errno::NOPROTOOPT) => Dropped::UdpRefused,
        Some(
            Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::NETDOWN
            | Errno::NONET
            | Errno::NODEV
            | Errno::ADDRNOTAVAIL
            | Errno::ACCESS
            | Errno::PERM
            | Errno::PROTO
            | Errno::OPNOTSUPP,
        ) => Dropped::UdpUnreachable,
        Some(Errno::MSGSIZE) => Dropped::UdpTooLarge,
        Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Dropped::UdpSendFull,
        _ => Dropped::UdpSendFailed,
    }
}

/// What a socket that could not be had is counted as. The kernel says "try again" when there is no port left.
pub(super) fn dropped_by_dial(unreached: &Unreached) -> Dropped {
    match unreached {
        Unreached::Refused(reason, _) => *reason,
        Unreached::Failed(error) if is_local_shortage(error) || error.kind() == io::ErrorKind::WouldBlock => {
            Dropped::FdLimit
        }
        Unreached::Failed(error) => dropped_by(error),
    }
}

/// Whether an error may tell of a datagram that was sent before, so that this one is tried again.
pub(crate) fn is_about_an_earlier_one(error: &io::Error) -> bool {
    // ICMP: nobody there, no way there, or (too large) a narrow hop. The kernel keeps one, and gives it to the next call.
    matches!(dropped_by(error), Dropped::UdpRefused | Dropped::UdpUnreachable | Dropped::UdpTooLarge)
}

/// Mark from here on what a socket sends with `tos`; `marked` is what it marks now. As the socket's own mark it costs nothing, and a
/// message of its own costs each datagram a look into the routing table. A mark that cannot be set is none.
pub(super) fn mark(socket: &UdpSocket, marked: &mut u8, tos: u8) {
    if tos != *marked && socket.set_tos(tos).is_ok() {
        *marked = tos;
    }
}

/// Send one datagram from a connected socket.
pub(super) fn send_one(socket: &UdpSocket, datagram: &[u8]) -> Result<(), Dropped> {
    let sent = match socket.send(datagram) {
        Err(error) if is_about_an_earlier_one(&error) => socket.send(datagram),
        other => other,
    };
    match sent {
        Ok(Sent::Bytes(_)) => Ok(()),
        Ok(Sent::WouldBlock) => Err(Dropped::UdpSendFull),
        Err(error) => Err(dropped_by(&error)),
    }
}

/// Send all; `on_result` is told for each, in order, whether it left.
pub(super) fn send_all(
    sender: &mut SendBatch,
    socket: &UdpSocket,
    messages: &[Outgoing<'_>],
    mut on_result: impl FnMut(usize, Result<(), Dropped>),
) {
    let mut done = 0;
    let mut retried = None;
    while done < messages.len() {
        let report = sender.send(socket, &messages[done..]);
        for index in done..done + report.sent {
            on_result(index, Ok(()));
        }
        done += report.sent;
        match report.stop {
            None => {}
            Some(Stop::WouldBlock) => {
                for index in done..messages.len() {
                    on_result(index, Err(Dropped::UdpSendFull));
                }
                return;
            }
            Some(Stop::Failed(error)) if is_about_an_earlier_one(&error) && retried != Some(done) => {
                retried = Some(done);
            }
            Some(Stop::Failed(error) | Stop::SegmentationRefused(error)) => {
                on_result(done, Err(dropped_by(&error)));
                done += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::ending::DialFailure;
    use super::*;
    use l4proxy_io::Received;

    #[test]
    fn every_error_is_counted_by_what_it_means() {
        let rows = [
            // ICMP destination unreachable, by code: protocol, port.
            (Errno::NOPROTOOPT, Dropped::UdpRefused),
            (Errno::CONNREFUSED, Dropped::UdpRefused),
            // Network; host; fragmentation needed; source route failed; host unknown; host isolated.
            (Errno::NETUNREACH, Dropped::UdpUnreachable),
            (Errno::HOSTUNREACH, Dropped::UdpUnreachable),
            (Errno::MSGSIZE, Dropped::UdpTooLarge),
            (Errno::OPNOTSUPP, Dropped::UdpUnreachable),
            (Errno::HOSTDOWN, Dropped::UdpUnreachable),
            (Errno::NONET, Dropped::UdpUnreachable),
            // ICMP parameter problem.
            (Errno::PROTO, Dropped::UdpUnreachable),
            // A route that prohibits, or ICMPv6 "administratively prohibited"; netfilter.
            (Errno::ACCESS, Dropped::UdpUnreachable),
            (Errno::PERM, Dropped::UdpUnreachable),
            // The interface is down; is gone; its address is.
            (Errno::NETDOWN, Dropped::UdpUnreachable),
            (Errno::NODEV, Dropped::UdpUnreachable),
            (Errno::ADDRNOTAVAIL, Dropped::UdpUnreachable),
            // Buffer; queue of the interface; memory.
            (Errno::AGAIN, Dropped::UdpSendFull),
            (Errno::NOBUFS, Dropped::UdpSendFull),
            (Errno::NOMEM, Dropped::UdpSendFull),
            (Errno::INVAL, Dropped::UdpSendFailed),
            (Errno::PIPE, Dropped::UdpSendFailed),
        ];
        for (number, expected) in rows {
            assert_eq!(dropped_by(&number.into()), expected, "{number:?}");
        }
        assert_eq!(dropped_by(&io::Error::other("no number at all")), Dropped::UdpSendFailed);
    }

    #[test]
    fn what_keeps_a_session_from_its_socket_is_told_from_what_keeps_a_datagram() {
        let rows = [
            (Errno::MFILE, Dropped::FdLimit),
            (Errno::NFILE, Dropped::FdLimit),
            (Errno::NOBUFS, Dropped::FdLimit),
            (Errno::NOMEM, Dropped::FdLimit),
            (Errno::ADDRNOTAVAIL, Dropped::FdLimit),
            (Errno::AGAIN, Dropped::FdLimit),
            (Errno::NETUNREACH, Dropped::UdpUnreachable),
            (Errno::ACCESS, Dropped::UdpUnreachable),
            (Errno::AFNOSUPPORT, Dropped::UdpSendFailed),
        ];
        for (number, expected) in rows {
            assert_eq!(dropped_by_dial(&Unreached::Failed(number.into())), expected, "{number:?}");
        }
        let refused = Unreached::Refused(Dropped::OriginMetadata, DialFailure::Denied);
        assert_eq!(dropped_by_dial(&refused), Dropped::OriginMetadata);
    }

    #[test]
    fn only_what_may_be_an_earlier_datagrams_is_tried_again() {
        let tried = [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::MSGSIZE, Errno::NOPROTOOPT, Errno::PROTO];
        let given_up = [Errno::AGAIN, Errno::NOBUFS, Errno::INVAL, Errno::NOMEM];
        assert!(tried.iter().all(|&number| is_about_an_earlier_one(&number.into())));
        assert!(!given_up.iter().any(|&number| is_about_an_earlier_one(&number.into())));
    }

    #[test]
    fn an_old_icmp_error_costs_no_later_datagram() {
        let origin = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = origin.local_address().unwrap();
        let socket = UdpSocket::connect(address, None).unwrap();
        drop(origin);
        assert_eq!(send_one(&socket, b"nobody hears this"), Ok(()));
        // The refusal of the first one is pending; somebody listens again.
        let origin = UdpSocket::bind(address, false).unwrap();
        assert_eq!(send_one(&socket, b"heard"), Ok(()));
        let mut buffer = [0; 16];
        assert_eq!(origin.recv(&mut buffer).unwrap(), Received::Bytes(5));
    }

    #[test]
    fn one_bad_datagram_in_a_batch_does_not_stop_the_others() {
        let there = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let here = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let destination = Some(there.local_address().unwrap());
        let large = vec![0; 65_508];
        let messages = [
            Outgoing::new(b"one", destination),
            Outgoing::new(&large, destination),
            Outgoing::new(b"", destination),
        ];
        let mut results = Vec::new();
        send_all(&mut SendBatch::new(4), &here, &messages, |index, result| results.push((index, result)));
        assert_eq!(results, [(0, Ok(())), (1, Err(Dropped::UdpTooLarge)), (2, Ok(()))]);
        let mut buffer = [0; 16];
        assert_eq!(there.recv(&mut buffer).unwrap(), Received::Bytes(3));
        assert_eq!(there.recv(&mut buffer).unwrap(), Received::Bytes(0));
    }
}
