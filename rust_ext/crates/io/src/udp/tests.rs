//! UDP on loopback: what is sent with one call comes out of the other, with everything the kernel knows about it.

use super::*;
use crate::epoll::{Epoll, Events, Interest};
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::{Duration, SystemTime};

const ALL: UdpOptions = UdpOptions {
    packet_info: true,
    tos: true,
    gro: false,
    timestamps: true,
    queue_errors: false,
    recv_buffer: None,
    send_buffer: None,
    mtu_discovery: None,
};

fn bound(address: &str, options: &UdpOptions) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address.parse().unwrap(), false).unwrap();
    socket.apply(options).unwrap();
    let address = socket.local_address().unwrap();
    (socket, address)
}

fn wait(socket: &UdpSocket) {
    let epoll = Epoll::new().unwrap();
    epoll.add(socket, 0, Interest::READ).unwrap();
    assert_eq!(epoll.wait(&mut Events::with_capacity(1), Some(Duration::from_secs(10))).unwrap(), 1);
}

fn send_all(socket: &UdpSocket, messages: &[Outgoing<'_>]) {
    let report = SendBatch::new(64).send(socket, messages);
    assert!(report.stop.is_none() && report.sent == messages.len(), "{report:?}");
}

fn wall_ns() -> u64 {
    u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap()
}

#[test]
fn an_unnamed_batch_has_everything_but_the_source_again_and_again() {
    let (server, to) = bound("127.0.0.1:0", &ALL);
    let client = UdpSocket::connect(to, None).unwrap();
    let mut batch = RecvBatch::unnamed(4, 2048);
    for round in 0..3u8 {
        send_all(&client, &[Outgoing { tos: Some(0xb8), ..Outgoing::new(&[round; 9], None) }]);
        wait(&server);
        assert_eq!(batch.recv(&server, 4).unwrap(), 1);
        let datagram = batch.get(0);
        assert_eq!((&*datagram.bytes, datagram.meta.tos), (&[round; 9][..], Some(0xb8)));
        assert_eq!(datagram.meta.source, "0.0.0.0:0".parse().unwrap());
    }
}

#[test]
fn a_batch_keeps_order_bytes_and_sources_and_empty_datagrams() {
    let (server, to) = bound("127.0.0.1:0", &ALL);
    let (client, from) = bound("127.0.0.1:0", &UdpOptions::default());
    let payloads: Vec<Vec<u8>> = (0..10u8).map(|i| vec![i; usize::from(i) * 100]).collect();
    let messages: Vec<_> = payloads.iter().map(|bytes| Outgoing::new(bytes, Some(to))).collect();
    // Three messages a call: the list takes four calls.
    let report = SendBatch::new(3).send(&client, &messages);
    assert!(report.stop.is_none() && report.sent == 10);
    let mut batch = RecvBatch::new(16, 2048);
    wait(&server);
    assert_eq!(batch.recv(&server, 4).unwrap(), 4);
    assert_eq!(batch.recv(&server, 100).unwrap(), 6);
    let mut seen = Vec::new();
    batch.for_each(|datagram| seen.push((datagram.bytes.to_vec(), datagram.meta.source)));
    let expected: Vec<_> = payloads[4..].iter().map(|bytes| (bytes.clone(), from)).collect();
    assert_eq!(seen, expected);
    assert_eq!(batch.recv(&server, 100).unwrap(), 0, "nothing left is no error");
    assert!(batch.is_empty());
}

#[test]
fn bytes_can_be_changed_in_place_and_a_moved_batch_still_works() {
    let (server, to) = bound("127.0.0.1:0", &ALL);
    let client = UdpSocket::connect(to, None).unwrap();
    let mut batch = RecvBatch::new(2, 64);
    for round in 0..3u8 {
        client.send(&[round; 5]).unwrap();
        wait(&server);
        let mut moved = batch;
        assert_eq!(moved.recv(&server, 2).unwrap(), 1);
        moved.get(0).bytes[0] = 99;
        assert_eq!(moved.get(0).bytes, [99, round, round, round, round]);
        batch = moved;
    }
}

#[test]
fn a_datagram_larger_than_its_buffer_is_marked() {
    let (server, to) = bound("127.0.0.1:0", &ALL);
    let client = UdpSocket::connect(to, None).unwrap();
    client.send(&[1; 100]).unwrap();
    client.send(&[2; 10]).unwrap();
    wait(&server);
    let mut batch = RecvBatch::new(4, 10);
    assert_eq!(batch.recv(&server, 4).unwrap(), 2);
    assert_eq!((batch.get(0).bytes.len(), batch.get(0).meta.truncated), (10, true));
    assert_eq!((batch.get(1).bytes.len(), batch.get(1).meta.truncated), (10, false));
}

#[test]
fn a_dual_stack_socket_tells_the_asked_address_and_answers_from_it() {
    let (server, address) = bound("[::]:0", &ALL);
    let mut batch = RecvBatch::new(4, 100);
    for (client_ip, server_ip) in [("127.0.0.1", "127.0.0.9"), ("::1", "::1"), ("127.0.0.7", "127.0.0.1")] {
        let (client_ip, server_ip): (IpAddr, IpAddr) =
            (client_ip.parse().unwrap(), server_ip.parse().unwrap());
        // Connected: only an answer from the very address that was asked gets through.
        let asked = SocketAddr::new(server_ip, address.port());
        let client = UdpSocket::connect(asked, Some(SocketAddr::new(client_ip, 0))).unwrap();
        client.send(b"who").unwrap();
        wait(&server);
        assert_eq!(batch.recv(&server, 4).unwrap(), 1);
        let meta = batch.get(0).meta;
        let (local, interface) = meta.local.unwrap();
        assert_eq!((meta.source, local), (client.local_address().unwrap(), server_ip));
        assert_ne!(interface, 0);
        for interface in [0, interface] {
            let source = Some((local, interface));
            send_all(&server, &[Outgoing { source, ..Outgoing::new(b"me", Some(meta.source)) }]);
            wait(&client);
            assert_eq!(client.recv(&mut [0; 10]).unwrap(), Received::Bytes(2));
        }
    }
}

#[test]
fn the_tos_byte_passes_both_ways_in_both_families() {
    for (server_address, client_address) in
        [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")]
    {
        let (server, to) = bound(server_address, &ALL);
        let (client, from) = bound(client_address, &ALL);
        let to = SocketAddr::new(from.ip(), to.port());
        let mut batch = RecvBatch::new(4, 100);
        for (sender, receiver, destination) in [(&client, &server, to), (&server, &client, from)] {
            let messages = [Some(0xb8 | 1), Some(3), None]
                .map(|tos| Outgoing { tos, ..Outgoing::new(b"x", Some(destination)) });
            send_all(sender, &messages);
            wait(receiver);
            assert_eq!(batch.recv(receiver, 4).unwrap(), 3);
            let seen: Vec<_> = (0..3).map(|index| batch.get(index).meta.tos).collect();
            assert_eq!(seen, [Some(0xb9), Some(3), Some(0)], "{server_address}");
        }
    }
}

#[test]
fn the_timestamp_is_of_arrival_and_not_of_reading() {
    let (server, to) = bound("127.0.0.1:0", &ALL);
    let client = UdpSocket::connect(to, None).unwrap();
    let mut batch = RecvBatch::new(1, 100);
    // The kernel switches stamping on a moment after the first socket asks; until then it stamps when the datagram is read.
    let arrived = (0..1000).any(|_| {
        let before = wall_ns();
        client.send(b"x").unwrap();
        let after = wall_ns();
        while wall_ns() < after + 200_000 {
            std::hint::spin_loop();
        }
        assert_eq!(batch.recv(&server, 1).unwrap(), 1);
        let stamp = batch.get(0).meta.timestamp_ns.unwrap();
        assert!(stamp >= before && stamp <= wall_ns(), "{before} {stamp}");
        stamp <= after
    });
    assert!(arrived);
}

#[test]
fn segments_sent_as_one_arrive_as_one_and_are_told_apart() {
    let gro = UdpOptions { gro: true, ..ALL };
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let server = UdpSocket::bind(address.parse().unwrap(), false).unwrap();
        assert!(server.apply(&gro).unwrap().gro);
        let to = server.local_address().unwrap();
        let client = UdpSocket::connect(to, None).unwrap();
        let payload: Vec<u8> = (0..10 * 160 + 30u32).map(|i| i as u8).collect();
        let segment_size = NonZeroU16::new(160);
        let message = Outgoing { segment_size, tos: Some(2), ..Outgoing::new(&payload, None) };
        send_all(&client, &[message, Outgoing::new(b"single", None)]);
        let mut batch = RecvBatch::new(16, 65536);
        wait(&server);
        assert_eq!(batch.recv(&server, 16).unwrap(), 2);
        let mut merged = batch.get(0);
        assert_eq!((merged.meta.segment_size, merged.meta.tos), (NonZeroUsize::new(160), Some(2)));
        assert!(merged.meta.timestamp_ns.is_some() && merged.meta.local.is_some());
        let segments: Vec<_> = merged.segments().map(|segment| segment.to_vec()).collect();
        let expected: Vec<_> = payload.chunks(160).map(<[u8]>::to_vec).collect();
        assert_eq!(segments, expected);
        let mut single = batch.get(1);
        assert_eq!(single.meta.segment_size, None);
        assert_eq!(single.segments().map(|segment| segment.len()).collect::<Vec<_>>(), [6]);
    }
}

#[test]
fn a_receiver_without_gro_gets_the_segments_one_by_one() {
    let (server, to) = bound("127.0.0.1:0", &ALL);
    let client = UdpSocket::connect(to, None).unwrap();
    let payload: Vec<u8> = (0..=255).cycle().take(1000).collect();
    send_all(&client, &[Outgoing { segment_size: NonZeroU16::new(300), ..Outgoing::new(&payload, None) }]);
    let mut batch = RecvBatch::new(16, 2048);
    wait(&server);
    assert_eq!(batch.recv(&server, 16).unwrap(), 4);
    for (index, expected) in payload.chunks(300).enumerate() {
        let datagram = batch.get(index);
        assert_eq!((&*datagram.bytes, datagram.meta.segment_size), (expected, None));
    }
}

#[test]
fn a_segment_size_as_large_as_the_datagram_asks_for_nothing() {
    let (server, to) = bound("127.0.0.1:0", &ALL);
    let client = UdpSocket::connect(to, None).unwrap();
    send_all(&client, &[Outgoing { segment_size: NonZeroU16::new(100), ..Outgoing::new(&[5; 100], None) }]);
    wait(&server);
    let mut batch = RecvBatch::new(4, 2048);
    assert_eq!(batch.recv(&server, 4).unwrap(), 1);
    assert_eq!(batch.get(0).bytes, [5; 100]);
}

#[test]
fn the_empty_datagram_is_one_segment() {
    let (server, to) = bound("127.0.0.1:0", &UdpOptions { gro: true, ..ALL });
    let client = UdpSocket::connect(to, None).unwrap();
    send_all(&client, &[Outgoing::new(b"", None)]);
    wait(&server);
    let mut batch = RecvBatch::new(4, 65536);
    assert_eq!(batch.recv(&server, 4).unwrap(), 1);
    assert_eq!(batch.get(0).segments().count(), 1);
}

#[test]
fn what_the_kernel_cannot_segment_is_told_apart_from_what_it_cannot_send() {
    let (_server, to) = bound("127.0.0.1:0", &ALL);
    let client = UdpSocket::connect(to, None).unwrap();
    // More segments than any kernel makes of one message.
    let too_many = vec![0; 1000];
    let messages = [
        Outgoing::new(b"fine", None),
        Outgoing { segment_size: NonZeroU16::new(1), ..Outgoing::new(&too_many, None) },
        Outgoing::new(b"not reached", None),
    ];
    let report = SendBatch::new(8).send(&client, &messages);
    assert_eq!(report.sent, 1);
    assert!(matches!(report.stop, Some(Stop::SegmentationRefused(_))), "{:?}", report.stop);

    let too_large = vec![0; 65_508];
    let messages =
        [Outgoing::new(b"fine", None), Outgoing::new(&too_large, None), Outgoing::new(b"skipped to", None)];
    let mut batch = SendBatch::new(8);
    let report = batch.send(&client, &messages);
    let Some(Stop::Failed(error)) = report.stop else { panic!("{:?}", report.stop) };
    assert_eq!((report.sent, error.raw_os_error()), (1, Some(libc::EMSGSIZE)));
    let report = batch.send(&client, &messages[2..]);
    assert!(report.sent == 1 && report.stop.is_none());
}

/// An address where nobody listens: bound once, closed again.
fn nobody() -> SocketAddr {
    bound("127.0.0.1:0", &UdpOptions::default()).1
}

#[test]
fn a_connected_socket_learns_that_nobody_listens_and_stays_usable() {
    let client = UdpSocket::connect(nobody(), None).unwrap();
    client.send(b"x").unwrap();
    wait(&client);
    assert_eq!(client.recv(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(client.recv(&mut [0; 4]).unwrap(), Received::WouldBlock);
    let messages = [Outgoing::new(b"a", None), Outgoing::new(b"b", None)];
    // Loopback answers the first at once, and the kernel would refuse the second for it: it is offered again and goes out.
    let report = SendBatch::new(4).send(&client, &messages);
    assert!(report.sent == 2 && report.stop.is_none(), "{report:?}");
    assert_eq!(client.take_error().unwrap().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    assert!(client.take_error().unwrap().is_none());
}

#[test]
fn an_unconnected_socket_learns_which_destination_was_refused() {
    let (client, _) = bound("127.0.0.1:0", &UdpOptions { queue_errors: true, ..ALL });
    assert!(client.take_queued_error().unwrap().is_none());
    let refused = nobody();
    send_all(&client, &[Outgoing::new(b"x", Some(refused))]);
    wait(&client);
    let queued = client.take_queued_error().unwrap().unwrap();
    assert_eq!((queued.destination, queued.remote, queued.mtu), (Some(refused), true, None));
    assert_eq!(queued.error.kind(), io::ErrorKind::ConnectionRefused);
    assert!(client.take_queued_error().unwrap().is_none());
}

#[test]
fn buffers_and_mtu_discovery_are_set_as_far_as_allowed() {
    let (socket, _) = bound("[::]:0", &UdpOptions::default());
    let before = socket.apply(&UdpOptions::default()).unwrap();
    let wish = UdpOptions { recv_buffer: Some(8 << 20), send_buffer: Some(100_000), ..ALL };
    let granted = socket.apply(&wish).unwrap();
    assert!(granted.recv_buffer >= before.recv_buffer && granted.recv_buffer <= 8 << 20, "{granted:?}");
    assert_eq!(granted.send_buffer, 100_000);
    use sockopt::{Ipv4PathMtuDiscovery as V4, Ipv6PathMtuDiscovery as V6};
    for (wish, v4, v6) in [
        (MtuDiscovery::Fragment, V4::DONT, V6::DONT),
        (MtuDiscovery::Discover, V4::DO, V6::DO),
        (MtuDiscovery::Probe, V4::PROBE, V6::PROBE),
    ] {
        socket.apply(&UdpOptions { mtu_discovery: Some(wish), ..UdpOptions::default() }).unwrap();
        assert_eq!(sockopt::ip_mtu_discover(&socket).unwrap(), v4);
        assert_eq!(sockopt::ipv6_mtu_discover(&socket).unwrap(), v6);
    }
}

#[test]
fn only_udp_sockets_are_wrapped() {
    let tcp = crate::tcp::listen("127.0.0.1:0".parse().unwrap(), 1, false).unwrap();
    assert_eq!(UdpSocket::from_fd(tcp).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let (unix, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert!(UdpSocket::from_fd(unix.into()).is_err());
    let std_socket = std::net::UdpSocket::bind("[::1]:0").unwrap();
    let ours = UdpSocket::from_fd(std_socket.into()).unwrap();
    assert!(ours.is_v6());
    assert_eq!(ours.recv(&mut [0; 1]).unwrap(), Received::WouldBlock);
}

/// Lengths and fill of what a merging batch is given: runs of equals, a shorter end, an empty one, a large one.
const MIXED: [(usize, u8); 12] = [
    (160, 0),
    (160, 1),
    (160, 2),
    (40, 3),
    (160, 4),
    (0, 5),
    (160, 6),
    (0, 7),
    (1_300, 8),
    (1_300, 9),
    (1, 10),
    (1, 11),
];

fn sends_each_datagram_as_it_is(address: &str, prepare: fn(&UdpSocket)) {
    let (one, to_one) = bound(address, &UdpOptions::default());
    let (other, to_other) = bound(address, &UdpOptions::default());
    let (sender, from) = bound(address, &UdpOptions::default());
    prepare(&sender);
    let payloads: Vec<Vec<u8>> = MIXED.iter().map(|&(length, fill)| vec![fill; length]).collect();
    let mut messages: Vec<_> = payloads.iter().map(|bytes| Outgoing::new(bytes, Some(to_one))).collect();
    messages.extend(payloads.iter().map(|bytes| Outgoing::new(bytes, Some(to_other))));
    let report = SendBatch::merging(64).send(&sender, &messages);
    assert!(report.stop.is_none() && report.sent == messages.len(), "{report:?}");
    for socket in [&one, &other] {
        let mut batch = RecvBatch::new(64, 2_048);
        let mut count = 0;
        while count < payloads.len() {
            wait(socket);
            count += batch.append(socket, 64).unwrap();
        }
        let seen: Vec<_> = batch.iter().map(|(bytes, meta)| (bytes.to_vec(), meta.source)).collect();
        let expected: Vec<_> = payloads.iter().map(|bytes| (bytes.clone(), from)).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn merged_datagrams_arrive_one_by_one_in_order_and_empty_ones_too() {
    sends_each_datagram_as_it_is("127.0.0.1:0", |_| {});
    if UdpSocket::bind("[::1]:0".parse().unwrap(), false).is_ok() {
        sends_each_datagram_as_it_is("[::1]:0", |_| {});
    }
}

#[test]
fn where_the_kernel_cannot_cut_each_datagram_goes_by_itself() {
    // Without checksums there is no cutting: EINVAL.
    sends_each_datagram_as_it_is("127.0.0.1:0", |sender| {
        let off: libc::c_int = 1;
        crate::sockaddr::set_option(sender.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, &off).unwrap();
    });
}
