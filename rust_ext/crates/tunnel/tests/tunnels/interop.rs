//! The cases of the QUIC interop runner (https://github.com/quic-interop/quic-interop-runner) that say whether a connection gets through a
//! bad network, between two PoPs in virtual time: each must end. The example `interop` measures them with other seeds.

use std::time::{Duration, Instant};

use l4proxy_tunnel::{ConnectionKey, Role, TunnelEvent, TunnelStream};
use l4proxy_wire::codes::CloseCode;

use crate::streams::{Transfer, opened};
use crate::world::{BlackHole, Nat, World, pop_id};

/// One case: what it is called, and what it does under a seed. It panics where the case is not passed, and returns the seconds it took.
pub(crate) type Case = (&'static str, fn(u64) -> f64);

/// All of them.
pub(crate) const CASES: [Case; 7] = [
    ("50 handshakes, 30 % lost", handshakes_under_loss),
    ("transfer, 2 % lost", |seed| {
        transfer(&mut conditioned(seed, |world| world.conditions.loss = 0.02), 1_000_000)
    }),
    ("transfer, 2 % corrupted", |seed| {
        transfer(&mut conditioned(seed, |world| world.conditions.corruption = 0.02), 1_000_000)
    }),
    ("black hole, 5 s alive, 2 s dead", |seed| black_hole(seed, 2, 5)),
    ("black hole, 2 s alive, 5 s dead", |seed| black_hole(seed, 5, 2)),
    ("handshake and transfer, 750 ms one way", |seed| {
        transfer(
            &mut conditioned(seed, |world| world.conditions.delay = Duration::from_millis(750)),
            1_000_000,
        )
    }),
    ("transfer, its address changes", rebinding),
];

/// A flow that goes on while its network changes, in pieces.
const PIECES: u64 = 6;
const PIECE: u64 = 400_000;

/// How long a transfer may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);

fn conditioned(seed: u64, change: impl FnOnce(&mut World)) -> World {
    let mut world = World::pair(seed);
    world.conditions.delay = Duration::from_millis(15);
    change(&mut world);
    world
}

fn seconds(world: &World, since: Instant) -> f64 {
    (world.now - since).as_secs_f64()
}

/// One after the other, each a new connection.
fn handshakes_under_loss(seed: u64) -> f64 {
    let mut world = conditioned(seed, |world| world.conditions.loss = 0.3);
    let began = world.now;
    for _ in 0..50 {
        let key = world.connect(0, 1, Role::Flows, "off");
        connected(&mut world, key);
        world.pops[0].tunnels.close(world.now, key, CloseCode::Done);
    }
    seconds(&world, began)
}

fn connected(world: &mut World, wanted: ConnectionKey) {
    let outcome = world.wait_event(0, |event| match event {
        TunnelEvent::HelloReceived { key, .. } if *key == wanted => Some(Ok(())),
        TunnelEvent::Lost { key, reason, .. } if *key == wanted => Some(Err(reason.clone())),
        _ => None,
    });
    assert_eq!(outcome, Ok(()), "the handshake");
}

/// A connection and a flow of so many bytes over it, each checked where it arrives.
fn transfer(world: &mut World, total: u64) -> f64 {
    let began = world.now;
    let key = world.connect(0, 1, Role::Flows, "off");
    connected(world, key);
    let (here, there) = opened(world, key);
    let mut transfer = Transfer::new((0, here), (1, there), 1, total);
    world.run_until(PATIENCE, |world| transfer.step(world));
    seconds(world, began)
}

/// One piece of a flow; the next goes on where it ends.
fn piece(here: TunnelStream, there: TunnelStream, number: u64) -> Transfer {
    let start = number * PIECE;
    let mut piece = Transfer::new((0, here), (1, there), 1, start + PIECE);
    (piece.written, piece.read, piece.is_last) = (start, start, number + 1 == PIECES);
    piece
}

/// The flow has pauses, so that it lasts for three holes and more however fast it goes.
fn black_hole(seed: u64, dead_s: u64, alive_s: u64) -> f64 {
    let mut world = conditioned(seed, |world| world.conditions.delay = Duration::from_millis(100));
    let began = world.now;
    let key = world.connect(0, 1, Role::Flows, "off");
    connected(&mut world, key);
    let (here, there) = opened(&mut world, key);
    let [dead, alive] = [dead_s, alive_s].map(Duration::from_secs);
    world.black_hole = Some(BlackHole { began: world.now, dead, alive });
    for number in 0..PIECES {
        let mut piece = piece(here, there, number);
        world.run_until(PATIENCE, |world| piece.step(world));
        world.run_for(Duration::from_secs(3));
    }
    seconds(&world, began)
}

/// PoP 0 is behind NAT, whose mapping changes six times; PoP 1 is told where it is a quarter of a second later each time, as probes do it.
fn rebinding(seed: u64) -> f64 {
    let mut world = conditioned(seed, |_| ());
    for pop in &mut world.pops {
        pop.tunnels.set_movable([pop_id("ams")]);
    }
    world.nat = Some(Nat { pop: 0, port: 1, known: None });
    let began = world.now;
    let key = world.connect(0, 1, Role::Flows, "off");
    connected(&mut world, key);
    world.nat = Some(Nat { pop: 0, port: 1, known: Some(1) });
    let (here, there) = opened(&mut world, key);
    for number in 0..PIECES {
        let mut piece = piece(here, there, number);
        let (middle, round) = (piece.total - PIECE / 2, number as u16 + 1);
        world.run_until(PATIENCE, |world| {
            piece.step(world);
            piece.read >= middle
        });
        world.nat = Some(Nat { pop: 0, port: round + 1, known: Some(round) });
        world.run_for(Duration::from_millis(250));
        world.nat = Some(Nat { pop: 0, port: round + 1, known: Some(round + 1) });
        world.run_until(PATIENCE, |world| piece.step(world));
    }
    seconds(&world, began)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed set of seeds, so that the same network is seen each time.
    fn passes(place: usize, seeds: u64) {
        for seed in 1..=seeds {
            CASES[place].1(seed);
        }
    }

    #[test]
    fn fifty_handshakes_complete_where_three_of_ten_packets_are_lost() {
        passes(0, 40);
    }

    #[test]
    fn a_transfer_is_whole_where_two_of_a_hundred_packets_are_lost() {
        passes(1, 10);
    }

    #[test]
    fn a_transfer_is_whole_where_two_of_a_hundred_packets_are_changed() {
        passes(2, 10);
    }

    #[test]
    fn a_transfer_is_whole_through_black_holes() {
        passes(3, 10);
        passes(4, 10);
    }

    #[test]
    fn a_handshake_and_a_transfer_pass_at_750_ms_one_way() {
        passes(5, 5);
    }

    #[test]
    fn a_transfer_is_whole_though_the_address_changes_under_it() {
        passes(6, 10);
    }
}
