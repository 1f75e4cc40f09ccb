//! Two PoPs, each with a path in use and a backup, over links that lose one packet in a hundred and delay each by up to 30 ms more: how
//! often in an hour of virtual time does a handle leave its path although nothing is broken? `false_alarms FIRST-SEED HOURS` prints one JSON
//! object for losses on their own, and one for losses in bursts. `l4proxy bench overlay` reads them.

#![expect(clippy::print_stdout, reason = "it is there to print")]
#![expect(clippy::expect_used, reason = "a programme that was called wrongly ends")]

use std::time::{Duration, Instant};

use l4proxy_proto::choice::choose;
use l4proxy_proto::keys::KeyGeneration;
use l4proxy_proto::liveness;
use l4proxy_wire::ids::{PathId, PopId};

#[path = "../src/liveness/tests/world.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod world;

use world::{Way, World, other};

const A: PopId = PopId(0xa);
const B: PopId = PopId(0xb);
const KEY: KeyGeneration = KeyGeneration(1);

/// Of the two ends, the path in use first; the two share no link.
const PATHS: [(PopId, [PathId; 2]); 2] = [(A, [PathId(1), PathId(2)]), (B, [PathId(11), PathId(12)])];

/// How often is looked which path is to be taken: far more often than hellos come.
const LOOK_EVERY: Duration = Duration::from_millis(5);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

/// Moves of both ends' handles in an hour, and how often a path was suspected.
fn hour(seed: u64, spoil: fn(&mut Way)) -> (u64, u64) {
    let mut world = World::new();
    world.reseed(seed);
    world.ways(&[1, 2, 11, 12], spoil);
    world.warm_up();
    let mut taken = PATHS.map(|_| 0);
    let mut moves = 0;
    let end = world.now + Duration::from_secs(3_600);
    while world.now < end {
        world.run(LOOK_EVERY);
        for ((pop, paths), taken) in PATHS.iter().zip(&mut taken) {
            let choice = choose(world.pop(*pop), other(*pop), paths, |_| false, |_, _| true);
            let active = choice.expect("there are paths").active;
            moves += u64::from(std::mem::replace(taken, active) != active);
        }
    }
    let suspicions = world.doubts(world.start).iter().filter(|(_, begins)| *begins).count() as u64;
    (moves, suspicions)
}

fn main() {
    let number = |argument: String| argument.parse::<u64>().expect("a number");
    let mut numbers = std::env::args().skip(1).map(number);
    let (first, hours) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(1));
    let random: fn(&mut Way) = |way| (way.loss_per_mille, way.jitter) = (10, ms(30));
    // Somewhat more than one packet in a hundred, four at a time: 200 ms without a hello.
    let bursts: fn(&mut Way) = |way| (way.burst_per_mille, way.burst_length, way.jitter) = (3, 4, ms(30));
    for (name, spoil) in [("random", random), ("bursts", bursts)] {
        let found: Vec<_> = (first..first + hours).map(|seed| hour(seed, spoil)).collect();
        let (moves, suspicions) = found.iter().fold((0, 0), |sum, hour| (sum.0 + hour.0, sum.1 + hour.1));
        let worst = found.iter().map(|(moves, _)| *moves).max().unwrap_or(0);
        println!(
            "{{\"loss\": \"{name}\", \"hours\": {hours}, \"moves\": {moves}, \"worst\": {worst}, \"suspicions\": {suspicions}}}"
        );
    }
}
