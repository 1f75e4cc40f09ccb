//! Planned moves from one path to another, and connections that begin over a path of which something is known: what the controller makes of what
//! it is told, with everything around it, in virtual time. Bounds leave room above what docs/decisions/0017 has measured.

#![expect(clippy::print_stdout, reason = "the figures that docs/decisions/0017 quotes")]

use std::time::Duration;

use l4proxy_tunnel::{ConnectionKey, Measured, PathHint, Role};
use l4proxy_wire::channel::{Datagram, Frame, frames};
use l4proxy_wire::ids::SessionId;

use crate::epochs::late;
use crate::streams::{Transfer, opened};
use crate::world::{Conditions, World};

const MS: Duration = Duration::from_millis(1);
const FOREVER: u64 = 1 << 40;

/// A path of so many Mbit/s and so long a round trip, with a queue of one round trip.
fn path(mbit: u32, rtt_ms: u32) -> Conditions {
    let rtt = MS * rtt_ms;
    let rate = u64::from(mbit) * 125_000;
    let queue = (rate as f64 * rtt.as_secs_f64()) as u64;
    Conditions { delay: rtt / 2, rate, queue, ..Conditions::default() }
}

fn hint(mbit: Option<u64>, rtt_ms: u32) -> PathHint {
    PathHint { rtt: Some(MS * rtt_ms), bytes_per_second: mbit.map(|mbit| mbit * 125_000) }
}

/// A transfer that has run for a while over `from`, at its full rate.
struct Running {
    world: World,
    keys: [ConnectionKey; 2],
    transfer: Transfer,
}

impl Running {
    fn over(seed: u64, from: Conditions) -> Self {
        let mut world = World::pair(seed);
        world.take_path(from);
        let (dialled, accepted) = world.connected(0, 1, Role::Flows);
        let (here, there) = opened(&mut world, dialled);
        let transfer = Transfer::new((0, here), (1, there), 1, FOREVER);
        let mut running = Self { world, keys: [dialled, accepted], transfer };
        running.megabits(2_500);
        running
    }

    /// How much arrives in so many milliseconds, in Mbit/s.
    fn megabits(&mut self, ms: u32) -> f64 {
        let before = self.transfer.read;
        for _ in 0..ms {
            self.world.run_for(MS);
            self.transfer.step(&mut self.world);
        }
        (self.transfer.read - before) as f64 * 8e-3 / f64::from(ms)
    }

    /// Both ends move, and their controllers are told.
    fn move_to(&mut self, to: Conditions, hint: PathHint) {
        self.world.take_path(to);
        for (pop, key) in self.keys.into_iter().enumerate() {
            self.world.pops[pop].tunnels.handle_path_change(key, hint);
        }
    }

    fn lost(&mut self) -> u64 {
        self.world.pops[0].tunnels.connection_stats(self.keys[0]).unwrap().quic_packets_lost
    }
}

#[test]
fn after_a_move_to_a_longer_path_as_much_arrives_in_the_next_second_as_its_round_trip_lets() {
    for (rtt_ms, mbit, least) in [(60, None, 80.0), (160, None, 70.0), (160, Some(100), 70.0)] {
        let mut running = Running::over(300, path(100, 20));
        running.move_to(path(100, rtt_ms), hint(mbit, rtt_ms));
        let first = running.megabits(1_000);
        println!("20 to {rtt_ms} ms, known to carry {mbit:?}: {first:.0} Mbit/s in the first second");
        assert!(first > least, "{rtt_ms} ms, {mbit:?}: {first}");
    }
}

#[test]
fn after_a_move_to_a_thinner_path_that_is_known_hardly_anything_is_lost() {
    let mut running = Running::over(310, path(100, 40));
    running.world.overflowed = 0;
    running.move_to(path(20, 40), hint(Some(20), 40));
    let rates = [running.megabits(1_000), running.megabits(2_000)];
    let overflowed = running.world.overflowed;
    println!(
        "100 to 20 Mbit/s: {rates:.1?} Mbit/s in the first second and the next two, {overflowed} overflow"
    );
    assert!(rates[0] > 14.0 && rates[1] > 14.0, "{rates:?}");
    // The path holds 74 packets and its queue as many.
    assert!(overflowed <= 150, "{overflowed}");
}

/// How long 10 MB take over a connection, in seconds.
fn ten_megabytes(world: &mut World, key: ConnectionKey) -> f64 {
    let (here, there) = opened(world, key);
    let mut transfer = Transfer::new((0, here), (1, there), 1, 10_000_000);
    let start = world.now;
    world.run_until(Duration::from_secs(60), |world| transfer.step(world));
    (world.now - start).as_secs_f64()
}

#[test]
fn a_connection_over_a_path_that_is_known_is_nearly_as_fast_as_a_warm_one() {
    let mut world = World::pair(320);
    world.take_path(path(100, 180));
    let (key, _) = world.connected(0, 1, Role::Flows);
    let cold = ten_megabytes(&mut world, key);
    let measured = world.pops[0].tunnels.take_measured(key);
    let warm = ten_megabytes(&mut world, key);
    let measured = world.pops[0].tunnels.take_measured(key).or(measured).unwrap();
    assert!(measured.bytes_per_second <= 12_500_000, "never above what the path carries: {measured:?}");
    let now = world.now;
    let told = PathHint { rtt: Some(180 * MS), bytes_per_second: Some(measured.bytes_per_second) };
    let peer = world.pops[1].id;
    let next = world.pops[0].tunnels.connect_over(now, peer, Role::Flows, "off", told).unwrap();
    world.run_for(Duration::from_secs(1));
    let known = ten_megabytes(&mut world, next);
    println!(
        "10 MB over 180 ms and 100 Mbit/s, s: cold {cold:.2}, warm {warm:.2}, new over a known path {known:.2}"
    );
    assert!(known < cold && known < warm * 1.4, "{cold} {warm} {known}");
}

#[test]
fn a_connection_that_a_peer_dials_begins_with_what_is_known_of_the_way_to_it() {
    let answer = |hint: PathHint| {
        let mut world = World::pair(321);
        world.take_path(path(100, 180));
        let peer = world.pops[0].id;
        world.pops[1].tunnels.expect_from_peers([(peer, hint)]);
        let (key, _) = world.connected(0, 1, Role::Flows);
        let (here, there) = opened(&mut world, key);
        let mut transfer = Transfer::new((1, there), (0, here), 1, 10_000_000);
        let start = world.now;
        world.run_until(Duration::from_secs(60), |world| transfer.step(world));
        (world.now - start).as_secs_f64()
    };
    let (unknown, known) = (answer(PathHint::default()), answer(hint(Some(100), 180)));
    println!("10 MB to who dialled, s: {unknown:.2}, over a known path {known:.2}");
    assert!(known < unknown, "{unknown} {known}");
}

#[test]
fn what_a_path_carries_is_measured_while_there_is_more_to_send_and_forgotten_with_the_path() {
    let mut running = Running::over(330, path(50, 40));
    let key = running.keys[0];
    let measured = running.world.pops[0].tunnels.take_measured(key).unwrap();
    assert!(measured.is_full && (5_000_000..=6_250_000).contains(&measured.bytes_per_second), "{measured:?}");
    running.megabits(500);
    running.move_to(path(20, 40), hint(Some(20), 40));
    running.megabits(100);
    let after: Option<Measured> = running.world.pops[0].tunnels.take_measured(key);
    assert!(after.is_none_or(|after| after.bytes_per_second < 3_000_000), "{after:?}");
}

#[test]
fn planned_moves_lose_no_datagram_and_make_at_most_one_in_a_thousand_late() {
    let mut world = World::pair(340);
    let paths = [path(100, 40), path(100, 60), path(100, 100), path(100, 60)];
    world.take_path(paths[0]);
    let (dialled, accepted) = world.connected(0, 1, Role::Flows);
    const COUNT: u32 = 40_000;
    for number in 0..COUNT {
        let bytes = number.to_be_bytes();
        let frame = Frame::Data { session: SessionId(1), datagram: Datagram::unmarked(&bytes) };
        world.pops[0].tunnels.send_frame(dialled, &frame).unwrap();
        world.pops[1].tunnels.send_frame(accepted, &frame).unwrap();
        world.run_for(MS);
        if number % 13_000 == 12_999 {
            let to = (number / 13_000 + 1) as usize % paths.len();
            world.take_path(paths[to]);
            let hint = PathHint { rtt: Some(paths[to].delay * 2), bytes_per_second: None };
            world.pops[0].tunnels.handle_path_change(dialled, hint);
            world.pops[1].tunnels.handle_path_change(accepted, hint);
        }
    }
    world.run_for(Duration::from_secs(1));
    for pop in 0..2 {
        let numbers: Vec<u32> = world.pops[pop]
            .frames
            .iter()
            .map(|(_, encoded)| match frames(encoded).next() {
                Some(Ok(Frame::Data { datagram, .. })) => {
                    u32::from_be_bytes(datagram.bytes.try_into().unwrap())
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(numbers.len(), COUNT as usize);
        let late = late(&numbers);
        assert!(late <= COUNT as usize / 1_000, "{late} of {COUNT}");
    }
}

#[test]
fn a_planned_move_takes_nothing_that_is_on_its_way_for_lost() {
    // To a longer path everything stays in order; to a shorter one what is sent later overtakes, which says nothing of the path.
    let mut running = Running::over(350, path(100, 20));
    let before = running.lost();
    running.move_to(path(100, 60), hint(Some(100), 60));
    running.megabits(300);
    assert_eq!(running.lost() - before, 0);
    assert_eq!(running.world.pops[0].tunnels.counters().packets_resent, 0);
}
