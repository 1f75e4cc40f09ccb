//! The two PoPs and the network between them, from event to event.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use l4proxy_wire::hello::Hello;
use l4proxy_wire::ids::{PathId, PopId};

use super::{A, B, KEY, ms, start};
use crate::liveness::{Event, HelloToSend, Liveness, PathState};

/// SplitMix64: seeded, so that a test is the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn is_within(&mut self, per_mille: u64) -> bool {
        self.next() % 1_000 < per_mille
    }
}

/// What a one-way path does to packets.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) loss_per_mille: u64,
    /// Bursts begin with this chance at each packet, and take the next `burst_length` packets.
    pub(super) burst_per_mille: u64,
    pub(super) burst_length: u32,
    pub(super) is_cut: bool,
    pub(super) burst_left: u32,
    is_after_burst: bool,
}

impl Way {
    const fn of(delay_ms: u64) -> Self {
        Self {
            delay: Duration::from_millis(delay_ms),
            jitter: Duration::ZERO,
            loss_per_mille: 0,
            burst_per_mille: 0,
            burst_length: 0,
            is_cut: false,
            burst_left: 0,
            is_after_burst: false,
        }
    }

    /// When a packet sent at `now` arrives, if it does.
    fn carry(&mut self, now: Instant, random: &mut Random) -> Option<Instant> {
        if self.burst_left > 0 {
            self.burst_left -= 1;
            self.is_after_burst = true;
            return None;
        }
        // The packet after a burst passes: two bursts without one between them would be a longer burst.
        if !std::mem::take(&mut self.is_after_burst) && random.is_within(self.burst_per_mille) {
            self.burst_left = self.burst_length - 1;
            return None;
        }
        if self.is_cut || random.is_within(self.loss_per_mille) {
            return None;
        }
        let jitter_us = random.next() % (self.jitter.as_micros() as u64 + 1);
        Some(now + self.delay + Duration::from_micros(jitter_us))
    }
}

/// When (ms), who says so, of which path.
pub(super) type Transition = (u64, PopId, u32);

/// The two PoPs and what is between them.
pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    random: Random,
    pops: BTreeMap<PopId, Liveness>,
    ways: BTreeMap<PathId, Way>,
    /// Packets on their way, by arrival; the number keeps those of one instant apart.
    flying: BTreeMap<(Instant, u64), (PopId, Hello)>,
    pub(super) count: u64,
    /// A PoP that is stopped, and what waits in its sockets.
    stopped: Option<(PopId, Vec<Hello>)>,
    /// Time since the start, who says it, what.
    pub(super) events: Vec<(u64, PopId, Event)>,
}

impl World {
    /// Both have both paths in use; 1 and 11 take 20 ms, 2 and 12 take 35 ms.
    pub(super) fn new() -> Self {
        let mut world = Self::without_paths();
        world.set_paths(A, &[1, 2]);
        world.set_paths(B, &[11, 12]);
        world
    }

    pub(super) fn without_paths() -> Self {
        let start = start();
        let ways = [(1, 20), (11, 20), (2, 35), (12, 35)];
        Self {
            start,
            now: start,
            random: Random(7),
            pops: [A, B].map(|pop| (pop, Liveness::new(pop, start))).into(),
            ways: ways.map(|(path, delay)| (PathId(path), Way::of(delay))).into(),
            flying: BTreeMap::new(),
            count: 0,
            stopped: None,
            events: Vec::new(),
        }
    }

    /// Chance goes another way from here on.
    pub(super) fn reseed(&mut self, seed: u64) {
        self.random = Random(seed);
    }

    /// A number from 0 on, less than `below`.
    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.random.next() % below
    }

    pub(super) fn pop(&mut self, pop: PopId) -> &mut Liveness {
        self.pops.get_mut(&pop).expect("A or B")
    }

    pub(super) fn set_paths(&mut self, pop: PopId, paths: &[u32]) {
        let paths: Vec<_> = paths.iter().copied().map(PathId).collect();
        let now = self.now;
        self.pop(pop).set_paths(now, other(pop), &paths);
    }

    pub(super) fn set_return_paths(&mut self, pop: PopId, paths: &[u32]) {
        let paths: Vec<_> = paths.iter().copied().map(PathId).collect();
        let now = self.now;
        self.pop(pop).set_return_paths(now, other(pop), &paths);
    }

    pub(super) fn set_watched(&mut self, pop: PopId, links: &[u32]) {
        let links: Vec<_> = links.iter().copied().map(PathId).collect();
        let now = self.now;
        self.pop(pop).set_watched(now, other(pop), &links);
    }

    pub(super) fn ways(&mut self, paths: &[u32], change: impl Fn(&mut Way)) {
        for path in paths {
            change(self.ways.get_mut(&PathId(*path)).expect("a path of this world"));
        }
    }

    pub(super) fn cut(&mut self, paths: &[u32]) {
        self.ways(paths, |way| way.is_cut = true);
    }

    pub(super) fn mend(&mut self, paths: &[u32]) {
        self.ways(paths, |way| way.is_cut = false);
    }

    pub(super) fn state(&mut self, pop: PopId, path: u32) -> PathState {
        self.pop(pop).path_state(other(pop), PathId(path))
    }

    /// Lets time pass, from event to event.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.settle();
            let arrival = self.flying.first_key_value().map(|(&(at, _), _)| at);
            let is_running = |pop: PopId| self.stopped.as_ref().is_none_or(|(stopped, _)| *stopped != pop);
            let timeouts = self.pops.iter().filter(|(pop, _)| is_running(**pop));
            let timeout = timeouts.filter_map(|(_, liveness)| liveness.poll_timeout()).min();
            let next = arrival.into_iter().chain(timeout).min().filter(|&at| at <= end);
            let Some(next) = next else { break };
            assert!(next > self.now || arrival == Some(next), "a timeout that does not move on");
            self.now = next;
            while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= next) {
                let (to, hello) = entry.remove();
                self.deliver(to, hello);
            }
        }
        self.now = end;
        self.settle();
    }

    fn deliver(&mut self, to: PopId, hello: Hello) {
        if let Some((_, waiting)) = self.stopped.as_mut().filter(|(pop, _)| *pop == to) {
            waiting.push(hello);
            return;
        }
        let now = self.now;
        self.pop(to).handle_hello(now, KEY, &hello).expect("a fresh hello");
    }

    /// Sends what is due and collects events, of every PoP that runs.
    fn settle(&mut self) {
        for id in [A, B] {
            if self.stopped.as_ref().is_some_and(|(stopped, _)| *stopped == id) {
                continue;
            }
            let now = self.now;
            while let Some(HelloToSend { peer, hello, .. }) = self.pop(id).poll_hello(now) {
                assert_eq!((hello.source, peer), (id, other(id)));
                let way = self.ways.get_mut(&hello.path).expect("a path of this world");
                if let Some(arrival) = way.carry(now, &mut self.random) {
                    self.count += 1;
                    self.flying.insert((arrival, self.count), (peer, hello));
                }
            }
            let at = self.now.saturating_duration_since(self.start).as_millis() as u64;
            while let Some(event) = self.pop(id).poll_event() {
                self.events.push((at, id, event));
            }
        }
    }

    /// Stops a PoP for a while, as SIGSTOP does. Then it finds its sockets full: it reads them first, or sends first.
    pub(super) fn pause(&mut self, pop: PopId, duration: Duration, reads_first: bool) {
        self.stopped = Some((pop, Vec::new()));
        self.run(duration);
        let (_, waiting) = self.stopped.take().expect("it was stopped");
        if !reads_first {
            self.settle();
        }
        for hello in waiting {
            self.deliver(pop, hello);
        }
    }

    /// Starts the PoPs and forgets how the paths came to life.
    pub(super) fn warm_up(&mut self) {
        self.run(ms(3_000));
        self.events.clear();
    }

    /// Deaths, then lives, in ms since `since`.
    pub(super) fn changes(&self, since: Instant) -> (Vec<Transition>, Vec<Transition>) {
        let offset = since.saturating_duration_since(self.start).as_millis() as u64;
        let (mut deaths, mut lives) = (Vec::new(), Vec::new());
        for &(at, pop, event) in &self.events {
            match event {
                Event::PathDead { peer, path, .. } => {
                    assert_eq!(peer, other(pop));
                    deaths.push((at - offset, pop, path.0));
                }
                Event::PathAlive { peer, path, .. } => {
                    assert_eq!(peer, other(pop));
                    lives.push((at - offset, pop, path.0));
                }
                Event::PathSuspect { .. } | Event::PathTrusted { .. } | Event::PathGraded { .. } => {}
            }
        }
        (deaths, lives)
    }
}

impl World {
    /// Suspicions in ms since `since`: when, who, which path, and whether it is one or the end of one.
    pub(super) fn doubts(&self, since: Instant) -> Vec<(Transition, bool)> {
        let offset = since.saturating_duration_since(self.start).as_millis() as u64;
        let doubt = |&(at, pop, event): &(u64, PopId, Event)| match event {
            Event::PathSuspect { path, .. } => Some(((at - offset, pop, path.0), true)),
            Event::PathTrusted { path, .. } => Some(((at - offset, pop, path.0), false)),
            Event::PathDead { .. } | Event::PathAlive { .. } | Event::PathGraded { .. } => None,
        };
        self.events.iter().filter_map(doubt).collect()
    }
}

pub(super) fn other(pop: PopId) -> PopId {
    if pop == A { B } else { A }
}
