//! Who is believed, what is said when somebody is not, and what connected PoPs share.

use std::time::{Duration, Instant};

use l4proxy_tunnel::{
    ConnectError, ConnectionState, DropReason, HandshakeFailure, IdentityError, Loss, PeerCertificateError,
    Role, TunnelEvent, TunnelOptions, Tunnels,
};
use l4proxy_wire::codes::CloseCode;
use rcgen::ExtendedKeyUsagePurpose;

use crate::certificates::{Authority, Leaf, load};
use crate::world::{World, pop_id};

/// The reason of the next `Lost` at PoP 0, which dialled.
fn lost_reason(world: &mut World) -> String {
    world.wait_event(0, |event| match event {
        TunnelEvent::Lost { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

fn refused_reason(world: &mut World, pop: usize) -> String {
    world.wait_event(pop, |event| match event {
        TunnelEvent::PeerRefused { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

fn failures(world: &World, pop: usize, failure: HandshakeFailure) -> u64 {
    world.pops[pop].tunnels.counters().handshakes_failed.get(&failure).copied().unwrap_or(0)
}

#[test]
fn both_ends_learn_peer_role_policy_and_worker() {
    let mut world = World::pair(1);
    let dialled = world.connect(0, 1, Role::Flows, "game,min_gain=5");
    let (accepted, policy) = world.wait_event(1, |event| match event {
        TunnelEvent::HelloReceived { key, policy } => Some((*key, policy.clone())),
        _ => None,
    });
    assert_eq!(policy, "game,min_gain=5");
    world.run_for(Duration::from_millis(100));
    for (pop, key, peer) in [(0, dialled, "iad"), (1, accepted, "ams")] {
        let view = world.pops[pop].tunnels.connection(key).unwrap();
        assert_eq!(view.peer, pop_id(peer));
        assert_eq!(view.peer_name, peer);
        assert_eq!(view.role, Some(Role::Flows));
        assert_eq!(view.policy, "game,min_gain=5");
        assert_eq!(view.state, ConnectionState::Ready);
        assert_eq!(view.dialled, pop == 0);
        // World::pair numbers the workers 1 and 2.
        assert_eq!(view.peer_worker, Some(2 - pop as u8));
        assert!((20..40).contains(&view.rtt.as_millis()), "{:?}", view.rtt);
        assert!(view.cwnd_bytes >= 140_000);
        assert_eq!(world.pops[pop].tunnels.counters().connections, 1);
    }
}

#[test]
fn every_packet_names_the_worker_it_is_for() {
    let mut world = World::pair(2);
    world.captured = Some(Vec::new());
    world.connected(0, 1, Role::Flows);
    world.run_for(Duration::from_secs(12));
    let captured = world.captured.take().unwrap();
    assert!(captured.len() > 6);
    for packet in &captured {
        let (first, worker_byte) = (packet.bytes[0], packet.to as u8 + 1);
        assert!(first & 0x40 != 0, "the fixed bit says that it is QUIC");
        let cid_worker = if first & 0x80 == 0 { packet.bytes[1] } else { packet.bytes[6] };
        // The very first packets carry an id that the dialler chose: they name its own worker.
        let is_first_flight = first & 0xb0 == 0x80 && packet.from == 0;
        assert!(cid_worker == worker_byte || (is_first_flight && cid_worker == 1), "{first:#x} {cid_worker}");
    }
}

#[test]
fn pair_keys_are_the_same_on_both_ends_and_may_be_sent_with_once_the_peer_has_them() {
    let mut world = World::pair(3);
    world.connect(0, 1, Role::Pair, "off");
    let pair_keys = |event: &TunnelEvent| match event {
        TunnelEvent::PairKeys { keys, may_send, .. } => Some((keys.clone(), *may_send)),
        _ => None,
    };
    let (first, first_may_send) = world.wait_event(0, pair_keys);
    assert!(!first_may_send);
    // The listener learns with the HELLO both what the connection is for and that the dialler has the keys.
    let (theirs, their_may_send) = world.wait_event(1, pair_keys);
    assert!(!their_may_send);
    assert_eq!(world.wait_event(1, pair_keys), (theirs.clone(), true));
    let (second, second_may_send) = world.wait_event(0, pair_keys);
    assert!(second_may_send);
    assert_eq!(first, second);
    assert_eq!(first.hop_send, theirs.hop_receive);
    assert_eq!(first.hop_receive, theirs.hop_send);
    assert_eq!(first.probe_send, theirs.probe_receive);
    assert_eq!(first.probe_receive, theirs.probe_send);
    assert_eq!(first.epoch, theirs.epoch);
    assert!(first.hop_send != first.hop_receive);
}

#[test]
fn another_ca_is_refused_by_the_dialler() {
    let mut world = World::new(4);
    world.add_pop("ams", Authority::new().identity("ams"), |_| ());
    world.add_pop("iad", Authority::new().identity("iad"), |_| ());
    world.know_each_other(&["ams", "iad"]);
    world.connect(0, 1, Role::Pair, "off");
    assert_eq!(lost_reason(&mut world), "signed by another CA");
    assert_eq!(refused_reason(&mut world, 1), "peer refused our certificate: signed by another CA");
    assert_eq!(failures(&world, 0, HandshakeFailure::OtherCa), 1);
    assert_eq!(failures(&world, 1, HandshakeFailure::RefusedByPeer), 1);
}

#[test]
fn another_ca_is_refused_by_the_listener() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut world = World::new(5);
    // The dialler trusts both CAs, the listener only its own.
    let files = theirs.issue(&Leaf::named(&["l4proxy://lab/ams"]));
    let both = format!("{}{}", ours.pem, theirs.pem);
    world.add_pop("ams", load(&both, "ams", &files, 2026).unwrap(), |_| ());
    world.add_pop("iad", ours.identity("iad"), |_| ());
    world.know_each_other(&["ams", "iad"]);
    world.connect(0, 1, Role::Pair, "off");
    assert_eq!(refused_reason(&mut world, 1), "signed by another CA");
    assert_eq!(lost_reason(&mut world), "peer refused our certificate: signed by another CA");
    let was_announced = world
        .pops
        .iter()
        .any(|pop| pop.events.iter().any(|event| matches!(event, TunnelEvent::Connected { .. })));
    assert!(!was_announced, "neither end calls this connected");
}

#[test]
fn the_right_ca_with_the_wrong_name_is_refused() {
    let authority = Authority::new();
    let mut world = World::new(6);
    world.add_pop("ams", authority.identity("ams"), |_| ());
    // Its address is iad's, its certificate is sin's.
    world.add_pop("iad", authority.identity("sin"), |_| ());
    world.know_each_other(&["ams", "iad", "sin"]);
    world.connect(0, 1, Role::Pair, "off");
    assert_eq!(lost_reason(&mut world), "names PoP sin, expected iad");
    assert_eq!(failures(&world, 0, HandshakeFailure::WrongName), 1);
}

#[test]
fn a_dialler_at_an_address_that_is_not_its_own_is_refused() {
    let authority = Authority::new();
    let mut world = World::new(7);
    world.add_pop("ams", authority.identity("sin"), |_| ());
    world.add_pop("iad", authority.identity("iad"), |_| ());
    world.know_each_other(&["ams", "iad", "sin"]);
    world.connect(0, 1, Role::Pair, "off");
    assert_eq!(refused_reason(&mut world, 1), "names PoP sin, expected ams");
    assert_eq!(lost_reason(&mut world), "peer refused our certificate: names PoP sin, expected ams");
}

#[test]
fn a_dialler_that_is_not_in_the_fleet_file_is_refused() {
    let authority = Authority::new();
    let mut world = World::new(8);
    world.add_pop("ams", authority.identity("sin"), |_| ());
    world.add_pop("iad", authority.identity("iad"), |_| ());
    world.know_each_other(&["ams", "iad"]);
    world.connect(0, 1, Role::Pair, "off");
    assert_eq!(refused_reason(&mut world, 1), "names PoP sin, which is not in the fleet file");
    assert_eq!(failures(&world, 1, HandshakeFailure::WrongName), 1);
}

#[test]
fn certificates_out_of_their_time_are_refused() {
    for (years, expected) in [
        (
            (2020, 2026),
            "certificate expired 151 d 0 h ago by this PoP's clock: it was not renewed, or this PoP's clock is ahead",
        ),
        (
            (2027, 2030),
            "certificate not valid for another 214 d 0 h by this PoP's clock: this PoP's clock is behind, or its \
             issuer's was ahead",
        ),
    ] {
        let authority = Authority::new();
        let mut world = World::new(9);
        world.add_pop("ams", authority.identity("ams"), |_| ());
        let files = authority.issue(&Leaf { years, ..Leaf::named(&["l4proxy://lab/iad"]) });
        world.add_pop("iad", authority.load("iad", &files, 2026).unwrap(), |_| ());
        world.know_each_other(&["ams", "iad"]);
        world.connect(0, 1, Role::Pair, "off");
        assert_eq!(lost_reason(&mut world), expected);
        assert_eq!(failures(&world, 0, HandshakeFailure::NotInTime), 1);
        assert_eq!(
            refused_reason(&mut world, 1),
            "peer refused our certificate: expired or not valid yet by the peer's clock"
        );
    }
}

#[test]
fn an_identity_that_peers_would_refuse_is_refused_when_it_is_read() {
    let authority = Authority::new();
    let own = |uris: &[&str]| {
        let files = authority.issue(&Leaf::named(uris));
        match authority.load("ams", &files, 2026).unwrap_err() {
            IdentityError::Own(error) => error,
            other => panic!("{other}"),
        }
    };
    assert_eq!(own(&[]), PeerCertificateError::NoName);
    assert_eq!(own(&["l4proxy://lab/ams", "l4proxy://lab/iad"]), PeerCertificateError::SeveralNames);
    for foreign in
        ["l4proxy://lab2/ams", "l4proxy://lab", "l4proxy://lab/", "https://lab/ams", "l4proxy://lab/a/b"]
    {
        assert!(matches!(own(&[foreign]), PeerCertificateError::OtherFleet { .. }), "{foreign}");
    }
    for other in ["l4proxy://lab/amS", "l4proxy://lab/ams ", "l4proxy://lab/am%73"] {
        assert!(matches!(own(&[other]), PeerCertificateError::OtherPop { .. }), "{other}");
    }
}

#[test]
fn a_certificate_for_one_purpose_only_is_refused_when_it_is_read() {
    let authority = Authority::new();
    for usages in [[ExtendedKeyUsagePurpose::ServerAuth], [ExtendedKeyUsagePurpose::ClientAuth]] {
        let files = authority.issue(&Leaf { usages: &usages, ..Leaf::named(&["l4proxy://lab/ams"]) });
        let error = authority.load("ams", &files, 2026).unwrap_err();
        assert!(matches!(error, IdentityError::Own(PeerCertificateError::Invalid(_))), "{error}");
    }
    let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let files = authority.issue(&Leaf { usages: &usages, ..Leaf::named(&["l4proxy://lab/ams"]) });
    authority.load("ams", &files, 2026).unwrap();
}

#[test]
fn broken_files_say_which_and_how() {
    let authority = Authority::new();
    let good = authority.issue(&Leaf::named(&["l4proxy://lab/ams"]));
    let other = authority.issue(&Leaf::named(&["l4proxy://lab/ams"]));
    let load = |ca: &str, certificate: &str, key: &str| {
        l4proxy_tunnel::Identity::from_pem(
            "lab",
            "ams",
            ca.as_bytes(),
            certificate.as_bytes(),
            key.as_bytes(),
        )
        .map(|_| ())
    };
    assert_eq!(load("", &good.certificate, &good.key), Err(IdentityError::NoCa));
    assert_eq!(load(&authority.pem, "", &good.key), Err(IdentityError::NoCertificate));
    assert_eq!(load(&authority.pem, &good.certificate, &other.key), Err(IdentityError::KeyMismatch));
    assert!(matches!(load(&authority.pem, &good.certificate, ""), Err(IdentityError::Key(_))));
    let cut = &good.certificate[..200];
    assert!(matches!(
        load(&authority.pem, cut, &good.key),
        Err(IdentityError::Pem { file: "certificate", .. })
    ));
    assert!(matches!(load(cut, &good.certificate, &good.key), Err(IdentityError::Pem { file: "CA", .. })));
    let stranger = Authority::new();
    assert_eq!(
        load(&stranger.pem, &good.certificate, &good.key),
        Err(IdentityError::Own(PeerCertificateError::OtherCa))
    );
}

#[test]
fn an_identity_says_when_it_ends_and_never_its_key() {
    let identity = Authority::new().identity("ams");
    let ends = identity.not_after().duration_since(std::time::UNIX_EPOCH).unwrap();
    // 1 January 2030.
    assert_eq!(ends.as_secs(), 1_893_456_000);
    let printed = format!("{identity:?}");
    assert!(printed.contains("key: \"(secret)\""), "{printed}");
    assert_eq!((identity.pop(), identity.fleet()), ("ams", "lab"));
}

#[test]
fn nothing_is_dialled_without_identity_or_to_a_stranger() {
    let mut world = World::pair(10);
    let mut blank = Tunnels::new(TunnelOptions::new(0, pop_id("ams"), [0; 32]));
    assert_eq!(blank.connect(world.now, pop_id("iad"), Role::Pair, "off"), Err(ConnectError::NoIdentity));
    let stranger = pop_id("sin");
    let ams = &mut world.pops[0].tunnels;
    assert_eq!(ams.connect(world.now, stranger, Role::Pair, "off"), Err(ConnectError::UnknownPeer(stranger)));
    assert_eq!(
        ams.connect(world.now, pop_id("iad"), Role::Pair, &"x".repeat(256)),
        Err(ConnectError::PolicyTooLong)
    );
}

#[test]
fn packets_of_a_pop_that_is_no_peer_are_dropped_without_an_answer() {
    let mut world = World::pair(11);
    world.pops[1].tunnels.set_peers(&[]);
    world.connect(0, 1, Role::Pair, "off");
    world.run_for(Duration::from_secs(3));
    assert!(world.drops(1, DropReason::QuicUnknownPeer) >= 2);
    assert_eq!(world.pops[1].tunnels.counters().connections, 0);
    let stats = world.pops[0].tunnels.counters();
    assert_eq!(stats.drops.len(), 0, "nothing came back: {:?}", stats.drops);
}

#[test]
fn a_peer_that_does_not_answer_is_given_up() {
    let mut world = World::pair(12);
    world.conditions.is_cut = true;
    let start = world.now;
    world.connect(0, 1, Role::Pair, "off");
    assert_eq!(lost_reason(&mut world), "handshake timed out");
    assert_eq!(world.now - start, Duration::from_secs(10));
    assert_eq!(failures(&world, 0, HandshakeFailure::TimedOut), 1);
}

#[test]
fn connections_survive_an_idle_minute_and_notice_a_dead_peer() {
    let mut world = World::pair(13);
    let (key, _) = world.connected(0, 1, Role::Flows);
    world.run_for(Duration::from_secs(60));
    assert!(world.pops[0].tunnels.connection(key).is_some());
    world.conditions.is_cut = true;
    let start = world.now;
    assert_eq!(lost_reason(&mut world), "timed out");
    assert!((15..=21).contains(&(world.now - start).as_secs()), "{:?}", world.now - start);
    assert!(world.pops[0].tunnels.connection(key).is_none());
}

#[test]
fn close_tells_the_peer_why_and_both_ends_forget() {
    let mut world = World::pair(14);
    let (_, accepted) = world.connected(0, 1, Role::Flows);
    let now = world.now;
    world.pops[1].tunnels.close(now, accepted, CloseCode::ShuttingDown);
    assert_eq!(lost_reason(&mut world), "peer is shutting down");
    world.run_for(Duration::from_secs(5));
    for pop in &mut world.pops {
        assert_eq!(pop.tunnels.counters().connections, 0);
        assert_eq!(pop.tunnels.poll_timeout(), None, "nothing is left to time out");
        assert!(format!("{:?}", pop.tunnels).contains("connections: 0"));
    }
}

#[test]
fn a_peer_that_started_again_says_so_at_once() {
    let authority = Authority::new();
    let mut world = World::new(15);
    world.add_pop("ams", authority.identity("ams"), |_| ());
    let iad = authority.identity("iad");
    world.add_pop("iad", iad.clone(), |_| ());
    world.know_each_other(&["ams", "iad"]);
    let (key, _) = world.connected(0, 1, Role::Flows);
    world.run_for(Duration::from_secs(1));
    let mut restarted = Tunnels::new(TunnelOptions::new(2, pop_id("iad"), [99; 32]));
    restarted.set_identity(iad).unwrap();
    restarted.set_peers(&[(pop_id("ams"), "ams".to_owned())]);
    world.pops[1].tunnels = restarted;
    let start = world.now;
    assert!(world.pops[0].tunnels.connection(key).is_some());
    // The next keep-alive is answered with a stateless reset.
    assert_eq!(lost_reason(&mut world), "the peer has started again");
    assert!(world.now - start <= Duration::from_secs(6), "{:?}", world.now - start);
}

/// How the connection of PoP 0, which has lost its peer, ended, and how long after `since`.
fn loss(world: &mut World, since: Instant) -> (Loss, Duration) {
    let found = world.wait_event(0, |event| match event {
        TunnelEvent::Lost { loss, .. } => Some(*loss),
        _ => None,
    });
    (found, world.now - since)
}

#[test]
fn a_nudge_finds_out_within_a_round_trip_that_the_process_is_another() {
    let authority = Authority::new();
    let mut world = World::new(18);
    world.add_pop("ams", authority.identity("ams"), |_| ());
    let iad = authority.identity("iad");
    world.add_pop("iad", iad.clone(), |_| ());
    world.know_each_other(&["ams", "iad"]);
    let (key, _) = world.connected(0, 1, Role::Flows);
    world.run_for(Duration::from_secs(1));
    // One that lives answers, and goes on.
    let before = world.now;
    world.pops[0].tunnels.nudge(key);
    world.run_for(Duration::from_millis(50));
    let view = world.pops[0].tunnels.connection(key).expect("it lives");
    // A round trip, and the 25 ms that the acknowledgement of a single packet may wait.
    assert_eq!(view.last_received, Some(before + Duration::from_millis(45)));

    let mut restarted = Tunnels::new(TunnelOptions::new(2, pop_id("iad"), [99; 32]));
    restarted.set_identity(iad).unwrap();
    restarted.set_peers(&[(pop_id("ams"), "ams".to_owned())]);
    world.pops[1].tunnels = restarted;
    let nudged = world.now;
    world.pops[0].tunnels.nudge(key);

    assert_eq!(loss(&mut world, nudged), (Loss::Restarted, Duration::from_millis(20)));
}

#[test]
fn a_handshake_is_through_soon_after_the_peer_can_answer() {
    for deaf in [100, 1_500, 4_000, 9_000] {
        let mut world = World::pair(21 + deaf);
        world.conditions.is_cut = true;
        world.connect(0, 1, Role::Flows, "off");
        world.run_for(Duration::from_millis(deaf));
        world.conditions.is_cut = false;
        let start = world.now;
        world.wait_event(0, |event| matches!(event, TunnelEvent::Connected { .. }).then_some(()));
        // At most until the next try, and two round trips.
        let took = world.now - start;
        assert!(took <= Duration::from_millis(345), "deaf for {deaf} ms: {took:?}");
    }
}

#[test]
fn a_connection_that_is_given_up_is_lost_at_once_with_its_streams() {
    let mut world = World::pair(19);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let stream = world.pops[0].tunnels.open_stream(key, &crate::streams::open(1)).unwrap();
    world.conditions.is_cut = true;
    world.run_for(Duration::from_secs(3));
    let now = world.now;
    world.pops[0].tunnels.give_up(now, key);

    let gone = world.wait_event(0, |event| match event {
        TunnelEvent::StreamGone { stream, code: None, loss: Some(loss) } => Some((*stream, *loss)),
        _ => None,
    });
    assert_eq!(gone, (stream, Loss::Silent));
    assert_eq!(loss(&mut world, now), (Loss::Silent, Duration::ZERO));
    assert!(world.pops[0].tunnels.connection(key).is_none());
}

#[test]
fn a_peer_that_stops_is_told_from_one_that_started_again() {
    let mut world = World::pair(20);
    let (_, accepted) = world.connected(0, 1, Role::Flows);
    let now = world.now;
    world.pops[1].tunnels.close(now, accepted, CloseCode::ShuttingDown);
    assert_eq!(loss(&mut world, now), (Loss::Stopped, Duration::from_millis(10)));
}

#[test]
fn the_table_of_connections_is_bounded() {
    let authority = Authority::new();
    let mut world = World::new(16);
    world.add_pop("ams", authority.identity("ams"), |options| options.max_connections = 3);
    world.add_pop("iad", authority.identity("iad"), |options| options.max_connections = 2);
    world.know_each_other(&["ams", "iad"]);
    for _ in 0..3 {
        world.connect(0, 1, Role::Flows, "off");
    }
    let now = world.now;
    assert_eq!(
        world.pops[0].tunnels.connect(now, pop_id("iad"), Role::Flows, "off"),
        Err(ConnectError::Full(3))
    );
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.pops[1].tunnels.counters().connections, 2);
    assert!(world.drops(1, DropReason::QuicIncomingFull) >= 1);
}

#[test]
fn handshakes_of_peers_are_bounded() {
    let authority = Authority::new();
    let mut world = World::new(17);
    world.add_pop("ams", authority.identity("ams"), |_| ());
    world.add_pop("iad", authority.identity("iad"), |options| options.max_handshakes = 4);
    world.know_each_other(&["ams", "iad"]);
    for _ in 0..10 {
        world.connect(0, 1, Role::Flows, "off");
    }
    world.run_for(Duration::from_millis(15));
    assert_eq!(world.pops[1].tunnels.counters().connections, 4);
    assert_eq!(world.drops(1, DropReason::QuicIncomingFull), 6);
    // The others are tried again, and find room.
    world.run_for(Duration::from_secs(8));
    assert_eq!(world.pops[1].tunnels.counters().connections, 10);
}

#[test]
fn two_connections_to_one_peer_are_two() {
    let mut world = World::pair(18);
    let (first, first_there) = world.connected(0, 1, Role::Flows);
    let (second, second_there) = world.connected(0, 1, Role::Pair);
    assert_ne!(first, second);
    assert_ne!(first_there, second_there);
    let now = world.now;
    world.pops[0].tunnels.close(now, first, CloseCode::Done);
    world.run_for(Duration::from_secs(2));
    assert!(world.pops[1].tunnels.connection(first_there).is_none());
    assert!(world.pops[1].tunnels.connection(second_there).is_some());
    // The place of the first is used again; its key stays dead.
    let (third, _) = world.connected(0, 1, Role::Flows);
    assert!(world.pops[0].tunnels.connection(first).is_none());
    assert!(world.pops[0].tunnels.connection(third).is_some());
}

#[test]
fn garbage_with_a_quic_first_byte_changes_nothing() {
    let mut world = World::pair(19);
    let (key, _) = world.connected(0, 1, Role::Flows);
    for length in [0usize, 1, 2, 7, 20, 25, 60, 600, 1200, 1350] {
        for first in [0x40u8, 0x7f, 0xc0, 0xff] {
            let mut bytes: Vec<u8> = (0..length).map(|_| (world.random() * 256.0) as u8).collect();
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            let packet =
                crate::world::Packet { from: 0, to: 1, kind: l4proxy_tunnel::TransmitKind::Quic, bytes };
            world.deliver(packet);
        }
    }
    world.run_for(Duration::from_secs(10));
    assert!(world.pops[0].tunnels.connection(key).is_some());
    assert!(world.drops(1, DropReason::QuicUnmatched) >= 30);
}

#[test]
fn answers_to_packets_of_no_connection_are_bounded() {
    let mut world = World::pair(20);
    // A long header of an unknown version is answered with the versions there are.
    let mut bytes = vec![0u8; 1200];
    bytes[..6].copy_from_slice(&[0xc0, 0x0a, 0x0a, 0x0a, 0x0a, 8]);
    bytes[14] = 8;
    for _ in 0..70 {
        let kind = l4proxy_tunnel::TransmitKind::Quic;
        world.deliver(crate::world::Packet { from: 0, to: 1, kind, bytes: bytes.clone() });
    }
    assert_eq!(world.drops(1, DropReason::QuicResponseFull), 6);
    assert_eq!(world.drops(1, DropReason::QuicUnmatched), 70);
}

#[test]
fn three_pops_have_three_pairs_of_keys() {
    let authority = Authority::new();
    let mut world = World::new(21);
    let names = ["ams", "iad", "sin"];
    for name in names {
        world.add_pop(name, authority.identity(name), |_| ());
    }
    world.know_each_other(&names);
    for (from, to) in [(0, 1), (0, 2), (1, 2)] {
        world.connect(from, to, Role::Pair, "off");
    }
    world.run_for(Duration::from_secs(1));
    let mut keys = std::collections::BTreeMap::new();
    for (pop, own) in names.into_iter().enumerate() {
        while let Some((peer, pair)) = world.take_event(pop, |event| match event {
            TunnelEvent::PairKeys { peer, keys, may_send: true, .. } => Some((*peer, keys.clone())),
            _ => None,
        }) {
            keys.insert((pop_id(own), peer), pair);
        }
    }
    assert_eq!(keys.len(), 6);
    for ((own, peer), pair) in &keys {
        let theirs = &keys[&(*peer, *own)];
        assert_eq!(pair.hop_send, theirs.hop_receive);
        assert_eq!(pair.probe_receive, theirs.probe_send);
        let alike = keys.values().filter(|other| other.hop_send == pair.hop_send).count();
        assert_eq!(alike, 1);
    }
    // The message of one peer is not taken for another's.
    world.pops[1].tunnels.send_bus(pop_id("ams"), b"from iad").unwrap();
    world.pops[2].tunnels.send_bus(pop_id("ams"), b"from sin").unwrap();
    for (name, text) in [("iad", b"from iad"), ("sin", b"from sin")] {
        world.wait_event(0, |event| match event {
            TunnelEvent::Bus { peer, payload } if *peer == pop_id(name) => {
                assert_eq!(payload, text);
                Some(())
            }
            _ => None,
        });
    }
}
