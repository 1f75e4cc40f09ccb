//! Paths that die under flows, drawn by seed, a thousand of them: lengths, loss, the moment, how long nobody notices, and which end hears of it
//! first. No flow ends, no byte is wrong, the gap follows from what was drawn, and datagrams arrive once.

use std::time::Duration;

use l4proxy_tunnel::{ConnectionKey, PathHint, Role, TunnelEvent, TunnelStream};
use l4proxy_wire::channel::{Datagram, Frame, frames};
use l4proxy_wire::ids::SessionId;

use crate::streams::{Transfer, bytes_at, opened, read_all};
use crate::world::{Conditions, World};

const SEEDS: u64 = 1_000;
const MS: Duration = Duration::from_millis(1);

/// What goes out again goes out in this time, and both ends look every ten milliseconds.
const PACING: Duration = Duration::from_millis(30);

/// The beginning and the fate of one run.
#[derive(Debug, Clone, Copy)]
struct Fate {
    before: Conditions,
    after: Conditions,
    /// From the first packet to the cut.
    cut_at: Duration,
    /// From the cut until the end that notices it first moves, and until the other one does.
    noticed: Duration,
    later: Duration,
    first: usize,
}

impl Fate {
    fn draw(world: &mut World, loss: f64) -> Self {
        let mut number = |from: f64, to: f64| from + world.random() * (to - from);
        let mut path = || Conditions { delay: MS.mul_f64(number(2.0, 120.0)), loss, ..Conditions::default() };
        let (before, after) = (path(), path());
        Self {
            before,
            after,
            cut_at: MS.mul_f64(number(50.0, 600.0)),
            noticed: MS.mul_f64(number(80.0, 400.0)),
            later: MS.mul_f64(number(0.0, 60.0)),
            first: usize::from(number(0.0, 1.0) < 0.5),
        }
    }

    /// The longest that an end may hear nothing: until both ends have moved, and one way over the new path.
    fn longest(&self) -> Duration {
        self.noticed + self.later + self.after.delay + PACING
    }
}

/// Two PoPs, a conversation of messages each way over one stream, and a datagram each 10 ms.
struct Run {
    world: World,
    keys: [ConnectionKey; 2],
    ends: [TunnelStream; 2],
    said: u64,
    /// The bytes that each end has.
    heard: [u64; 2],
    waited: [Duration; 2],
    datagrams: u32,
}

impl Run {
    const MESSAGE: usize = 200;

    fn new(mut world: World) -> Self {
        let (dialled, accepted) = world.connected(0, 1, Role::Flows);
        let (here, there) = opened(&mut world, dialled);
        Self {
            world,
            keys: [dialled, accepted],
            ends: [here, there],
            said: 0,
            heard: [0; 2],
            waited: [Duration::ZERO; 2],
            datagrams: 0,
        }
    }

    /// Ten milliseconds with a message each way, and a datagram.
    fn tick(&mut self) {
        for (pop, end) in self.ends.into_iter().enumerate() {
            let message = bytes_at(pop as u64, self.said, Self::MESSAGE);
            self.world.pops[pop].tunnels.write(end, &message);
        }
        self.said += Self::MESSAGE as u64;
        let session = SessionId(self.datagrams);
        self.datagrams += 1;
        let frame = Frame::Data { session, datagram: Datagram::unmarked(b"tick") };
        self.world.pops[0].tunnels.send_frame(self.keys[0], &frame).unwrap();
        self.world.run_for(MS * 10);
        for pop in 0..2 {
            let (bytes, _) = read_all(&mut self.world, pop, self.ends[pop]);
            let expected = bytes_at(1 - pop as u64, self.heard[pop], bytes.len());
            assert_eq!(bytes, expected, "the bytes of the other end, in order");
            self.heard[pop] += bytes.len() as u64;
            self.waited[pop] = if bytes.is_empty() { self.waited[pop] + MS * 10 } else { Duration::ZERO };
        }
    }

    fn run(&mut self, time: Duration) -> Duration {
        let until = self.world.now + time;
        let mut longest = Duration::ZERO;
        while self.world.now < until {
            self.tick();
            longest = longest.max(self.waited[0]).max(self.waited[1]);
        }
        longest
    }

    fn move_end(&mut self, end: usize) {
        let now = self.world.now;
        self.world.pops[end].tunnels.handle_path_loss(now, self.keys[end], PathHint::default());
    }

    /// Lives through it; the longest silence of either end.
    fn suffer(&mut self, fate: Fate) -> Duration {
        self.run(fate.cut_at);
        self.world.conditions.is_cut = true;
        let mut longest = self.run(fate.noticed);
        // The path of the other end is the old one until it moves as well; here it is as good as the new one then.
        self.world.conditions = fate.after;
        self.move_end(fate.first);
        longest = longest.max(self.run(fate.later));
        self.move_end(1 - fate.first);
        longest.max(self.run(Duration::from_secs(2)))
    }

    fn assert_nothing_ended(&mut self, seed: u64) {
        for pop in 0..2 {
            let ended = self.world.take_event(pop, |event| {
                matches!(event, TunnelEvent::StreamGone { .. } | TunnelEvent::Lost { .. }).then_some(())
            });
            assert_eq!(ended, None, "seed {seed}: the flow never notices");
            assert!(
                self.heard[pop] + 20_000 > self.said,
                "seed {seed}: {} of {}",
                self.heard[pop],
                self.said
            );
        }
    }

    /// How many datagrams came, each once.
    fn arrived(&self) -> u32 {
        let mut seen = vec![0; self.datagrams as usize];
        for (_, encoded) in &self.world.pops[1].frames {
            for frame in frames(encoded) {
                if let Ok(Frame::Data { session, .. }) = frame {
                    seen[session.0 as usize] += 1;
                }
            }
        }
        assert!(seen.iter().all(|&times| times <= 1), "none comes twice");
        seen.iter().sum()
    }
}

fn suffered(seed: u64, loss: f64) -> (Run, Fate, Duration) {
    let mut world = World::pair(seed);
    let fate = Fate::draw(&mut world, loss);
    world.conditions = Conditions { loss: 0.0, ..fate.before };
    let mut run = Run::new(world);
    run.world.conditions = fate.before;
    let longest = run.suffer(fate);
    (run, fate, longest)
}

#[test]
fn a_conversation_lives_through_the_death_of_its_path_and_waits_no_longer_than_it_must() {
    for seed in 0..SEEDS {
        let (mut run, fate, longest) = suffered(seed, 0.0);
        run.assert_nothing_ended(seed);
        assert!(longest <= fate.longest(), "seed {seed}: {longest:?}, {fate:?}");
        // What was on its way longer ago than is kept for datagrams is lost with the path.
        let kept = Duration::from_millis(300);
        let lost =
            (fate.noticed + fate.later + fate.before.delay).saturating_sub(kept).as_millis() as u32 / 10;
        // The last ones are still on their way.
        let flying = fate.after.delay.as_millis() as u32 / 10 + 2;
        assert!(
            run.arrived() + lost + flying >= run.datagrams,
            "seed {seed}: {} of {}",
            run.arrived(),
            run.datagrams
        );
    }
}

#[test]
fn a_next_path_that_loses_two_packets_in_a_hundred_ends_no_flow() {
    for seed in SEEDS..SEEDS + SEEDS / 5 {
        let (mut run, _, longest) = suffered(seed, 0.02);
        run.assert_nothing_ended(seed);
        assert!(longest < Duration::from_millis(1_500), "seed {seed}: {longest:?}");
        run.arrived();
    }
}

#[test]
fn a_transfer_is_whole_wherever_its_path_was_cut() {
    for seed in 0..SEEDS / 5 {
        let mut world = World::pair(seed);
        let fate = Fate::draw(&mut world, 0.0);
        world.conditions = Conditions { rate: 2_500_000, queue: 100_000, ..fate.before };
        let mut run = Run::new(world);
        let [here, there] = run.ends;
        let mut transfer = Transfer::new((0, here), (1, there), 1, 600_000);
        let mut cut = |run: &mut Run, time: Duration| {
            let until = run.world.now + time;
            while run.world.now < until {
                run.world.run_for(MS);
                transfer.step(&mut run.world);
            }
        };
        cut(&mut run, fate.cut_at);
        run.world.conditions.is_cut = true;
        cut(&mut run, fate.noticed);
        run.world.conditions = Conditions { rate: 2_500_000, queue: 100_000, ..fate.after };
        run.move_end(fate.first);
        cut(&mut run, fate.later);
        run.move_end(1 - fate.first);
        run.world.run_until(Duration::from_secs(5), |world| transfer.step(world));
    }
}
