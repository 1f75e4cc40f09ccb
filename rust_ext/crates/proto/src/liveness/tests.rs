//! Two PoPs, A and B, each with two directed paths to the other, joined by a network in virtual time.
//!
//! A's paths are 1 (primary) and 2, B's are 11 and 12. Each has a delay, a jitter, and a rule that says which packets are lost.

use l4proxy_wire::hello::{Report, Reports};
use proptest::prelude::*;

use super::*;

const A: PopId = PopId(0xa);
const B: PopId = PopId(0xb);
const KEY: KeyGeneration = KeyGeneration(1);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

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
struct Way {
    delay: Duration,
    jitter: Duration,
    loss_per_mille: u64,
    /// Bursts begin with this chance at each packet, and take the next `burst_length` packets.
    burst_per_mille: u64,
    burst_length: u32,
    is_cut: bool,
    burst_left: u32,
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
type Transition = (u64, PopId, u32);

/// The two PoPs and what is between them.
struct World {
    start: Instant,
    now: Instant,
    random: Random,
    pops: BTreeMap<PopId, Liveness>,
    ways: BTreeMap<PathId, Way>,
    /// Packets on their way, by arrival; the number keeps those of one instant apart.
    flying: BTreeMap<(Instant, u64), (PopId, Hello)>,
    count: u64,
    /// A PoP that is stopped, and what waits in its sockets.
    stopped: Option<(PopId, Vec<Hello>)>,
    /// Time since the start, who says it, what.
    events: Vec<(u64, PopId, Event)>,
}

impl World {
    /// Both have both paths in use; 1 and 11 take 20 ms, 2 and 12 take 35 ms.
    fn new() -> Self {
        let mut world = Self::without_paths();
        world.set_paths(A, &[1, 2]);
        world.set_paths(B, &[11, 12]);
        world
    }

    fn without_paths() -> Self {
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

    fn pop(&mut self, pop: PopId) -> &mut Liveness {
        self.pops.get_mut(&pop).expect("A or B")
    }

    fn set_paths(&mut self, pop: PopId, paths: &[u32]) {
        let paths: Vec<_> = paths.iter().copied().map(PathId).collect();
        let now = self.now;
        self.pop(pop).set_paths(now, other(pop), &paths);
    }

    fn set_return_paths(&mut self, pop: PopId, paths: &[u32]) {
        let paths: Vec<_> = paths.iter().copied().map(PathId).collect();
        let now = self.now;
        self.pop(pop).set_return_paths(now, other(pop), &paths);
    }

    fn ways(&mut self, paths: &[u32], change: impl Fn(&mut Way)) {
        for path in paths {
            change(self.ways.get_mut(&PathId(*path)).expect("a path of this world"));
        }
    }

    fn cut(&mut self, paths: &[u32]) {
        self.ways(paths, |way| way.is_cut = true);
    }

    fn mend(&mut self, paths: &[u32]) {
        self.ways(paths, |way| way.is_cut = false);
    }

    fn state(&mut self, pop: PopId, path: u32) -> PathState {
        self.pop(pop).path_state(other(pop), PathId(path))
    }

    /// Lets time pass, from event to event.
    fn run(&mut self, duration: Duration) {
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
            while let Some(HelloToSend { peer, hello }) = self.pop(id).poll_hello(now) {
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
    fn pause(&mut self, pop: PopId, duration: Duration, reads_first: bool) {
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
    fn warm_up(&mut self) {
        self.run(ms(3_000));
        self.events.clear();
    }

    /// Deaths, then lives, in ms since `since`.
    fn changes(&self, since: Instant) -> (Vec<Transition>, Vec<Transition>) {
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
            }
        }
        (deaths, lives)
    }
}

fn other(pop: PopId) -> PopId {
    if pop == A { B } else { A }
}

#[test]
fn paths_come_to_life_and_their_round_trips_are_known() {
    let mut world = World::new();
    assert_eq!(world.state(A, 1), PathState::Unknown);
    world.run(ms(500));
    for (pop, path) in [(A, 1), (A, 2), (B, 11), (B, 12)] {
        assert_eq!(world.state(pop, path), PathState::Alive, "{path}");
    }
    assert_eq!(world.changes(world.start).0, []);
    // There over the path in question, back over the faster one.
    assert_eq!(world.pop(A).path_rtt(B, PathId(1)), Some(ms(40)));
    assert_eq!(world.pop(A).path_rtt(B, PathId(2)), Some(ms(55)));
}

#[test]
fn hellos_go_out_at_twenty_hertz_per_path() {
    let mut world = World::new();
    world.run(ms(10_000));
    // Four paths, each at the beginning of each of 200 intervals, and at the end of the last.
    assert!((4 * 200..=4 * 201).contains(&world.count), "{}", world.count);
}

#[test]
fn a_primary_cut_both_ways_is_dead_within_four_hundred_milliseconds_at_both_ends() {
    let mut world = World::new();
    world.warm_up();
    let cut = world.now;
    world.cut(&[1, 11]);
    world.run(ms(5_000));
    let (deaths, lives) = world.changes(cut);
    assert_eq!(deaths.iter().map(|&(_, pop, path)| (pop, path)).collect::<Vec<_>>(), [(A, 1), (B, 11)]);
    assert!(deaths.iter().all(|&(at, ..)| (300..=400).contains(&at)), "{deaths:?}");
    assert_eq!(lives, []);
    assert_eq!((world.state(A, 2), world.state(B, 12)), (PathState::Alive, PathState::Alive));
}

#[test]
fn a_one_way_cut_is_noticed_by_the_sender_alone() {
    for (cut_path, pop) in [(1, A), (11, B), (2, A), (12, B)] {
        let mut world = World::new();
        world.warm_up();
        let cut = world.now;
        world.cut(&[cut_path]);
        world.run(ms(60_000));
        let (deaths, lives) = world.changes(cut);
        assert_eq!(deaths.len(), 1, "{deaths:?}");
        assert_eq!((deaths[0].1, deaths[0].2), (pop, cut_path));
        assert!((300..=400).contains(&deaths[0].0), "{deaths:?}");
        assert_eq!(lives, []);
    }
}

#[test]
fn a_mended_path_is_alive_again_after_a_second_and_not_before() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[1, 11]);
    world.run(ms(20_000));
    world.events.clear();
    let mended = world.now;
    world.mend(&[1, 11]);
    world.run(ms(3_000));
    let (deaths, lives) = world.changes(mended);
    assert_eq!(deaths, []);
    assert_eq!(lives.iter().map(|&(_, pop, path)| (pop, path)).collect::<Vec<_>>(), [(A, 1), (B, 11)]);
    assert!(lives.iter().all(|&(at, ..)| (950..=1_100).contains(&at)), "{lives:?}");
    let Event::PathAlive { silence, .. } = world.events[0].2 else { panic!("it came to life") };
    assert!(silence > ms(20_500) && silence < ms(21_000), "{silence:?}");
}

#[test]
fn a_path_that_loses_one_in_five_does_not_come_back() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[1]);
    world.run(ms(2_000));
    world.mend(&[1]);
    let mut count = 0;
    // Exactly every fifth: bursts of one, as often as the rule asks.
    for _ in 0..100 {
        world.ways(&[1], |way| way.burst_left = 1);
        world.run(ms(250));
        count += 1;
    }
    assert_eq!((count, world.state(A, 1)), (100, PathState::Dead));
    world.run(ms(1_200));
    assert_eq!(world.state(A, 1), PathState::Alive);
}

#[test]
fn an_hour_of_loss_kills_nothing() {
    let mut world = World::new();
    world.ways(&[1, 2, 11, 12], |way| way.loss_per_mille = 10);
    world.run(ms(3_600_000));
    assert_eq!(world.changes(world.start).0, []);
}

#[test]
fn an_hour_of_bursts_and_jitter_kills_nothing() {
    let mut world = World::new();
    world.ways(&[1, 2, 11, 12], |way| {
        way.jitter = ms(30);
        // Up to 200 ms without a packet, some fifteen times a minute and path.
        (way.burst_per_mille, way.burst_length) = (13, 4);
    });
    world.run(ms(3_600_000));
    assert_eq!(world.changes(world.start).0, []);
}

#[test]
fn with_jitter_a_cut_is_still_found_in_time() {
    let mut world = World::new();
    world.ways(&[1, 2, 11, 12], |way| way.jitter = ms(30));
    world.warm_up();
    let cut = world.now;
    world.cut(&[1]);
    world.run(ms(2_000));
    let (deaths, _) = world.changes(cut);
    assert_eq!(deaths.len(), 1);
    assert!((250..=450).contains(&deaths[0].0), "{deaths:?}");
}

#[test]
fn a_stopped_pop_kills_no_path_of_its_own_and_the_peer_keeps_one() {
    for reads_first in [true, false] {
        let mut world = World::new();
        world.warm_up();
        let stopped = world.now;
        world.pause(B, ms(2_000), reads_first);
        let (deaths, _) = world.changes(stopped);
        assert_eq!(deaths.iter().map(|&(_, pop, path)| (pop, path)).collect::<Vec<_>>(), [(A, 1)]);
        assert!((280..=320).contains(&deaths[0].0), "{deaths:?}");
        assert_eq!(world.state(A, 2), PathState::Alive, "the last one is kept");
        world.events.clear();
        world.run(ms(5_000));
        let (deaths, lives) = world.changes(stopped);
        assert_eq!(deaths, [], "reads first: {reads_first}");
        assert_eq!(lives.iter().map(|&(_, pop, path)| (pop, path)).collect::<Vec<_>>(), [(A, 1)]);
        let rtt = world.pop(A).path_rtt(B, PathId(1)).expect("measured");
        assert!(rtt < ms(45), "a pause is no round trip: {rtt:?}");
    }
}

#[test]
fn a_peer_that_vanishes_leaves_every_pop_one_path_to_try() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[11, 12]);
    world.run(ms(60_000));
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Dead, PathState::Alive));
    // B still hears A, and is told that A hears nothing: both are dead by report.
    assert_eq!((world.state(B, 11), world.state(B, 12)), (PathState::Dead, PathState::Dead));
    world.mend(&[11, 12]);
    world.run(ms(3_000));
    for (pop, path) in [(A, 1), (A, 2), (B, 11), (B, 12)] {
        assert_eq!(world.state(pop, path), PathState::Alive, "{path}");
    }
}

#[test]
fn a_single_path_is_never_given_up_for_silence() {
    let mut world = World::without_paths();
    world.set_paths(A, &[1]);
    world.set_paths(B, &[11]);
    world.warm_up();
    world.cut(&[1, 11]);
    world.run(ms(30_000));
    assert_eq!(world.changes(world.start).0, []);
    assert_eq!(world.state(A, 1), PathState::Alive);
}

#[test]
fn a_path_that_is_dead_from_the_beginning_is_found_and_the_other_lives() {
    let mut world = World::new();
    world.cut(&[1]);
    world.run(ms(2_000));
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Dead, PathState::Alive));
    let (deaths, _) = world.changes(world.start);
    assert!((1_000..=1_200).contains(&deaths[0].0), "{deaths:?}");
}

#[test]
fn a_peer_that_has_never_been_heard_leaves_paths_unknown() {
    let mut world = World::without_paths();
    world.set_paths(A, &[1, 2]);
    world.run(ms(60_000));
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Unknown, PathState::Unknown));
    assert_eq!(world.pop(A).last_heard(B), None);
    assert_eq!(world.events, []);
    // It comes up late: what was sent before it listened is not held against the paths.
    world.set_paths(B, &[11, 12]);
    world.run(ms(500));
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Alive, PathState::Alive));
    assert_eq!(world.changes(world.start).0, []);
}

#[test]
fn who_is_heard_answers_over_its_return_paths_until_ten_seconds_after() {
    let mut world = World::without_paths();
    world.set_return_paths(B, &[11, 12]);
    assert_eq!(world.pop(B).poll_timeout(), None);
    world.set_paths(A, &[1, 2]);
    world.run(ms(1_000));
    assert_eq!((world.state(A, 1), world.state(B, 11)), (PathState::Alive, PathState::Alive));
    world.set_paths(A, &[]);
    world.run(ms(9_900));
    assert!(world.pop(B).poll_timeout().is_some());
    world.run(ms(200));
    assert_eq!(world.pop(B).poll_timeout(), None);
    assert_eq!(world.state(B, 11), PathState::Unknown);
}

#[test]
fn a_path_that_stays_in_use_keeps_its_state_and_one_that_returns_begins_anew() {
    let mut world = World::new();
    world.warm_up();
    world.cut(&[1]);
    world.run(ms(1_000));
    world.set_paths(A, &[2, 1]);
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Dead, PathState::Alive));
    world.set_paths(A, &[2]);
    world.mend(&[1]);
    world.set_paths(A, &[1, 2]);
    assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Unknown, PathState::Alive));
    world.run(ms(200));
    assert_eq!(world.state(A, 1), PathState::Alive, "its sequences are above those of its former life");
}

#[test]
fn a_peer_that_starts_again_is_heard_at_once_under_its_new_key() {
    let now = start();
    let mut liveness = Liveness::new(A, now);
    let hello =
        |sequence, sent_us| Hello { source: B, path: PathId(11), sequence, sent_us, reports: Reports::EMPTY };
    assert_eq!(liveness.handle_hello(now, KEY, &hello(9_000, 450_000_000)), Ok(()));
    assert_eq!(liveness.handle_hello(now, KEY, &hello(0, 0)), Err(DropReason::HelloReplayed));
    assert_eq!(liveness.handle_hello(now, KeyGeneration(2), &hello(0, 0)), Ok(()));
    let stale = liveness.handle_hello(now, KEY, &hello(9_001, 450_050_000));
    assert_eq!(stale, Err(DropReason::HelloReplayed));
}

#[test]
fn forty_paths_are_followed_and_the_rest_waits_for_room() {
    let now = start();
    let mut liveness = Liveness::new(A, now);
    let paths: Vec<_> = (0..30).map(PathId).collect();
    liveness.set_paths(now, B, &paths);
    liveness.set_paths(now, PopId(0xc), &paths);
    assert_eq!(liveness.counters().paths_full, 20);
    let later = now + ms(49);
    let sent = std::iter::from_fn(|| liveness.poll_hello(later)).count();
    assert_eq!(sent, MAX_PATHS);
    liveness.set_paths(later, B, &paths[..5]);
    assert_eq!(liveness.counters().paths_full, 20, "counted once");
    let sent = std::iter::from_fn(|| liveness.poll_hello(later + ms(50))).count();
    assert_eq!(sent, 35);
}

#[test]
fn the_table_of_peers_is_bounded_and_forgets_the_silent() {
    let now = start();
    let mut liveness = Liveness::new(A, now);
    let hello = |source: u32| Hello {
        source: PopId(source),
        path: PathId(1),
        sequence: 1,
        sent_us: 0,
        reports: Reports::EMPTY,
    };
    for source in 0..MAX_PEERS as u32 {
        assert_eq!(liveness.handle_hello(now, KEY, &hello(source)), Ok(()));
    }
    let late = hello(MAX_PEERS as u32);
    assert_eq!(liveness.handle_hello(now, KEY, &late), Err(DropReason::HelloFull));
    liveness.set_paths(now, late.source, &[PathId(1)]);
    assert_eq!(liveness.counters().peers_full, 1);
    assert_eq!(liveness.handle_hello(now + ms(10_000), KEY, &late), Ok(()));
}

#[test]
fn events_that_nobody_polls_make_room_for_newer_ones() {
    let now = start();
    let mut liveness = Liveness::new(A, now);
    for n in 0..MAX_EVENTS as u32 + 3 {
        liveness.push_event(B, PathId(n), Change::Died(SILENCE));
    }
    assert_eq!(liveness.counters().events_full, 3);
    let oldest = Event::PathDead { peer: B, path: PathId(3), silence: SILENCE };
    assert_eq!(liveness.poll_event(), Some(oldest));
    assert_eq!(std::iter::from_fn(|| liveness.poll_event()).count(), MAX_EVENTS - 1);
}

/// Something that happens to one PoP; peers and paths are few, so that it meets itself again.
#[derive(Clone, Debug)]
enum Input {
    Wait(u64),
    SetPaths(u32, Vec<u32>),
    SetReturnPaths(u32, Vec<u32>),
    Hello {
        source: u32,
        path: u32,
        sequence: u32,
        sent_us: u64,
        generation: u64,
        reports: Vec<(u32, u32, u32, u32)>,
    },
}

fn input() -> impl Strategy<Value = Input> {
    let paths = || prop::collection::vec(0_u32..30, 0..30);
    let sequence = || prop_oneof![0_u32..200, any::<u32>()];
    let reports = prop::collection::vec((0_u32..30, sequence(), any::<u32>(), any::<u32>()), 0..=4);
    let times = prop_oneof![0_u64..3_000_000, any::<u64>()];
    prop_oneof![
        prop_oneof![0_u64..200, 0_u64..20_000].prop_map(Input::Wait),
        (0_u32..4, paths()).prop_map(|(peer, paths)| Input::SetPaths(peer, paths)),
        (0_u32..4, paths()).prop_map(|(peer, paths)| Input::SetReturnPaths(peer, paths)),
        (0_u32..4, 0_u32..60, sequence(), times, 0_u64..3, reports).prop_map(
            |(source, path, sequence, sent_us, generation, reports)| Input::Hello {
                source,
                path,
                sequence,
                sent_us,
                generation,
                reports
            }
        ),
    ]
}

fn hello_of(source: u32, path: u32, sequence: u32, sent_us: u64, list: &[(u32, u32, u32, u32)]) -> Hello {
    let mut reports = Reports::EMPTY;
    for &(path, sequence, heard, age_us) in list {
        reports.push(Report { path: PathId(path), sequence, heard, age_us });
    }
    Hello { source: PopId(source), path: PathId(path), sequence, sent_us, reports }
}

proptest! {
    #[test]
    fn whatever_an_authenticated_peer_says_nothing_panics_and_no_bound_is_passed(
        inputs in prop::collection::vec(input(), 1..120),
    ) {
        let mut now = start();
        let mut liveness = Liveness::new(A, now);
        for input in inputs {
            let ids = |paths: Vec<u32>| paths.into_iter().map(PathId).collect::<Vec<_>>();
            match input {
                Input::Wait(time_ms) => now += ms(time_ms),
                Input::SetPaths(peer, paths) => liveness.set_paths(now, PopId(peer), &ids(paths)),
                Input::SetReturnPaths(peer, paths) => liveness.set_return_paths(now, PopId(peer), &ids(paths)),
                Input::Hello { source, path, sequence, sent_us, generation, reports } => {
                    let hello = hello_of(source, path, sequence, sent_us, &reports);
                    let once = liveness.handle_hello(now, KeyGeneration(generation), &hello);
                    let again = liveness.handle_hello(now, KeyGeneration(generation), &hello);
                    prop_assert!(again.is_err(), "{once:?}, then accepted");
                }
            }
            let sent: Vec<_> = std::iter::from_fn(|| liveness.poll_hello(now)).collect();
            prop_assert!(sent.len() <= MAX_PATHS, "{} hellos at one instant", sent.len());
            prop_assert!(liveness.poll_timeout().is_none_or(|at| at > now), "a timeout that is over");
            prop_assert!(liveness.peers.values().map(|peer| peer.paths.len()).sum::<usize>() <= MAX_PATHS);
            prop_assert!(liveness.events.len() <= MAX_EVENTS);
        }
    }

    #[test]
    fn silence_never_takes_the_last_path(cut_after_ms in 0_u64..3_000, silence_ms in 0_u64..60_000, heal in any::<bool>()) {
        let mut world = World::new();
        world.run(ms(cut_after_ms));
        // The peer is gone altogether: no report can kill a path.
        world.pause(B, ms(silence_ms), true);
        let not_dead = [1, 2].into_iter().filter(|&path| world.state(A, path) != PathState::Dead).count();
        prop_assert!(not_dead >= 1);
        if heal {
            world.run(ms(4_000));
            prop_assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Alive, PathState::Alive));
        }
    }
}
