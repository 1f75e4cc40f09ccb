//! Who is no longer believed: PoPs and certificates that a list has revoked, and CAs that were left behind.

use std::time::Duration;

use l4proxy_tunnel::{ConnectError, HandshakeFailure, Identity, Revoked, Role, StreamRead, TunnelEvent};
use l4proxy_wire::ids::PopId;

use crate::certificates::{Authority, Leaf, load};
use crate::streams::opened;
use crate::world::{World, pop_id};

const NO_SERIALS: [Vec<u8>; 0] = [];

fn revoked_pop(name: &str) -> Revoked {
    Revoked::new([name.to_owned()], NO_SERIALS)
}

fn failures(world: &World, pop: usize, failure: HandshakeFailure) -> u64 {
    world.pops[pop].tunnels.counters().handshakes_failed.get(&failure).copied().unwrap_or(0)
}

/// Reason and failure of the next `Lost` at a PoP.
fn lost(world: &mut World, pop: usize) -> (String, HandshakeFailure) {
    world.wait_event(pop, |event| match event {
        TunnelEvent::Lost { reason, failure, .. } => Some((reason.clone(), *failure)),
        _ => None,
    })
}

fn refused(world: &mut World, pop: usize) -> (String, HandshakeFailure) {
    world.wait_event(pop, |event| match event {
        TunnelEvent::PeerRefused { reason, failure, .. } => Some((reason.clone(), *failure)),
        _ => None,
    })
}

/// Two PoPs of one authority and their identities.
fn pair(seed: u64) -> (World, Authority, [Identity; 2]) {
    let authority = Authority::new();
    let identities = ["ams", "iad"].map(|pop| authority.identity(pop));
    let mut world = World::new(seed);
    for (pop, identity) in ["ams", "iad"].into_iter().zip(&identities) {
        world.add_pop(pop, identity.clone(), |_| ());
    }
    world.know_each_other(&["ams", "iad"]);
    (world, authority, identities)
}

fn set_identity(world: &mut World, pop: usize, identity: Identity) -> Vec<PopId> {
    let now = world.now;
    let tunnels = &mut world.pops[pop].tunnels;
    tunnels.set_identity(identity).unwrap();
    tunnels.end_revoked(now)
}

#[test]
fn a_pop_that_is_revoked_by_name_loses_its_connections_and_flows_at_once_and_gets_no_new_ones() {
    let (mut world, _, [_, iad]) = pair(1);
    let (dialled, accepted) = world.connected(0, 1, Role::Pair);
    let (flows, _) = world.connected(0, 1, Role::Flows);
    let (stream, _) = opened(&mut world, flows);

    let ended = set_identity(&mut world, 1, iad.with_revoked(revoked_pop("ams")));

    assert_eq!(ended, [pop_id("ams")], "each peer once, however many connections it had");
    assert!(world.pops[1].tunnels.connection(accepted).is_none(), "at once, not when something comes next");
    assert_eq!(lost(&mut world, 1), ("certificate revoked".to_owned(), HandshakeFailure::Revoked));
    assert_eq!(lost(&mut world, 0).0, "peer refused our certificate: certificate revoked");
    let gone = world.wait_event(0, |event| match event {
        TunnelEvent::StreamGone { stream, .. } => Some(*stream),
        _ => None,
    });
    assert_eq!(gone, stream);
    assert!(matches!(world.pops[0].tunnels.read(stream, &mut [0; 8]), StreamRead::Gone));
    assert!(world.pops[0].tunnels.connection(dialled).is_none());

    world.pops[0].events.clear();
    world.connect(0, 1, Role::Pair, "off");
    assert_eq!(refused(&mut world, 1), ("certificate revoked".to_owned(), HandshakeFailure::Revoked));
    assert_eq!(lost(&mut world, 0).0, "peer refused our certificate: revoked");
    assert_eq!(failures(&world, 1, HandshakeFailure::Revoked), 1);
}

#[test]
fn a_pop_that_is_revoked_by_name_is_not_dialled() {
    let (mut world, _, [ams, _]) = pair(2);
    set_identity(&mut world, 0, ams.with_revoked(revoked_pop("iad")));
    let now = world.now;
    assert_eq!(
        world.pops[0].tunnels.connect(now, pop_id("iad"), Role::Pair, "off"),
        Err(ConnectError::Revoked(pop_id("iad")))
    );
}

#[test]
fn a_certificate_that_is_revoked_by_its_serial_is_refused_and_another_of_the_same_pop_is_not() {
    let (mut world, authority, [ams, _]) = pair(3);
    let serial = vec![0x5a, 0x17, 0x00, 0x01];
    let stolen = authority.issue(&Leaf { serial: Some(&serial), ..Leaf::named(&["l4proxy://lab/iad"]) });
    set_identity(&mut world, 1, authority.load("iad", &stolen, 2026).unwrap());
    let (dialled, _) = world.connected(0, 1, Role::Flows);

    let revoked = Revoked::new([], [[&[0][..], &serial].concat()]);
    let ended = set_identity(&mut world, 0, ams.with_revoked(revoked));
    assert_eq!(ended, [pop_id("iad")]);
    assert!(world.pops[0].tunnels.connection(dialled).is_none());
    world.pops[0].events.clear();

    world.connect(0, 1, Role::Flows, "off");
    assert_eq!(lost(&mut world, 0), ("certificate revoked".to_owned(), HandshakeFailure::Revoked));

    set_identity(&mut world, 1, authority.identity("iad"));
    world.connected(0, 1, Role::Flows);
}

#[test]
fn a_handshake_that_began_before_the_revocation_does_not_end_as_a_connection() {
    for revoking in [0, 1] {
        let (mut world, _, identities) = pair(4);
        world.connect(0, 1, Role::Pair, "off");
        // The first packets are on their way; TLS holds on to the settings that it began with.
        world.run_for(Duration::from_millis(12));
        let other = ["iad", "ams"][revoking];
        set_identity(&mut world, revoking, identities[revoking].clone().with_revoked(revoked_pop(other)));
        world.run_for(Duration::from_secs(3));
        let was_connected =
            world.pops[revoking].events.iter().any(|event| matches!(event, TunnelEvent::Connected { .. }));
        assert!(!was_connected, "PoP {revoking}");
        assert_eq!(world.pops[revoking].tunnels.counters().connections, 0);
    }
}

#[test]
fn what_is_taken_from_the_list_may_come_back() {
    let (mut world, _, [_, iad]) = pair(5);
    set_identity(&mut world, 1, iad.clone().with_revoked(revoked_pop("ams")));
    world.connect(0, 1, Role::Pair, "off");
    refused(&mut world, 1);
    set_identity(&mut world, 1, iad.with_revoked(Revoked::default()));
    world.connected(0, 1, Role::Pair);
}

#[test]
fn connections_of_others_live_on_when_a_pop_is_revoked() {
    let (mut world, authority, [_, iad]) = pair(6);
    world.add_pop("sin", authority.identity("sin"), |_| ());
    world.know_each_other(&["ams", "iad", "sin"]);
    let (_, of_ams) = world.connected(0, 1, Role::Flows);
    let (_, of_sin) = world.connected(2, 1, Role::Flows);

    assert_eq!(set_identity(&mut world, 1, iad.with_revoked(revoked_pop("sin"))), [pop_id("sin")]);

    world.run_for(Duration::from_secs(30));
    assert!(world.pops[1].tunnels.connection(of_ams).is_some());
    assert!(world.pops[1].tunnels.connection(of_sin).is_none());
}

#[test]
fn a_renewed_identity_leaves_the_connections_that_there_are_alone_and_serves_the_next() {
    let (mut world, authority, _) = pair(7);
    let (before, _) = world.connected(0, 1, Role::Flows);
    for pop in [0, 1] {
        let name = ["ams", "iad"][pop];
        assert_eq!(set_identity(&mut world, pop, authority.identity(name)), []);
    }
    world.connected(0, 1, Role::Flows);
    world.run_for(Duration::from_secs(30));
    assert!(world.pops[0].tunnels.connection(before).is_some());
}

/// What a PoP trusts and who issued its identity, while one CA takes over from another.
#[test]
fn pops_of_the_old_and_the_new_ca_speak_both_ways_while_both_are_trusted_and_not_once_the_old_is_dropped() {
    let (old, new) = (Authority::new(), Authority::new());
    let both = format!("{}{}", old.pem, new.pem);
    let named = |pop: &str| format!("l4proxy://lab/{pop}");
    let of = |authority: &Authority, pop: &str| authority.issue(&Leaf::named(&[&named(pop)]));

    // First step: everybody trusts both. Second: identities of the new CA, one PoP after the other. Both orders of dialling.
    for (dialler, listener) in [(0, 1), (1, 0)] {
        let mut world = World::new(8);
        world.add_pop("ams", load(&both, "ams", &of(&old, "ams"), 2026).unwrap(), |_| ());
        world.add_pop("iad", load(&both, "iad", &of(&new, "iad"), 2026).unwrap(), |_| ());
        world.know_each_other(&["ams", "iad"]);
        world.connected(dialler, listener, Role::Pair);
        world.connected(dialler, listener, Role::Flows);
    }

    // Third: a PoP that trusts the new CA only refuses an identity of the old one, whoever dials.
    for (dialler, listener) in [(0, 1), (1, 0)] {
        let mut world = World::new(9);
        world.add_pop("ams", load(&both, "ams", &of(&old, "ams"), 2026).unwrap(), |_| ());
        world.add_pop("iad", load(&new.pem, "iad", &of(&new, "iad"), 2026).unwrap(), |_| ());
        world.know_each_other(&["ams", "iad"]);
        world.connect(dialler, listener, Role::Pair, "off");
        let (reason, failure) = if dialler == 1 { lost(&mut world, 1) } else { refused(&mut world, 1) };
        assert_eq!((reason.as_str(), failure), ("signed by another CA", HandshakeFailure::OtherCa));
        // And is at one again with the same PoP once that has an identity of the new CA.
        set_identity(&mut world, 0, load(&both, "ams", &of(&new, "ams"), 2026).unwrap());
        world.connected(dialler, listener, Role::Pair);
    }
}
