//! Hellos: any bytes as a packet, and a story of one PoP that is told anything by peers whose keys are right: reports that are random or
//! about what was really sent, at any time. No hello counts twice, no bound is passed, time goes on, and silence never takes the last path.
//!
//! An input is a row of steps of eight bytes: `what · peer · path · sequence (2) · age (2) · mask`.

use std::time::Duration;

use l4proxy_proto::keys::KeyGeneration;
use l4proxy_proto::liveness::{Event, Liveness, MAX_PATHS, PathState};
use l4proxy_wire::hello::{Hello, Report, Reports};
use l4proxy_wire::ids::{PathId, PopId};
use l4proxy_wire::keys::ProbeKey;

use crate::at;

const MAX_STEPS: usize = 64;
const OWN: PopId = PopId(1);
const KEY: [u8; 16] = [7; 16];
const PEERS: u8 = 3;
const PATHS: u8 = 24;

fn packet(bytes: &[u8]) {
    let key = ProbeKey::new(KEY);
    let Ok(read) = Hello::decode(bytes) else { return };
    let plain = read.hello.encode(&key, read.epoch);
    let is_plain = plain.as_slice().len() == bytes.len() && plain.as_slice()[3] == bytes[3];
    let written = if is_plain {
        plain.as_slice().to_vec()
    } else {
        read.hello.encode_padded(&key, read.epoch, bytes.len())
    };
    assert_eq!(written.len(), bytes.len());
    let body = plain.as_slice().len() - 8;
    assert_eq!(written[..body], bytes[..body], "a hello has two encodings");
    if written == bytes {
        assert!(read.verify(&key));
    }
}

struct Story {
    now: Duration,
    liveness: Liveness,
    /// The paths that are in use to each peer, in order of preference.
    in_use: [Vec<PathId>; PEERS as usize],
    /// There are or were paths for answers alone: one of them may be what is left.
    has_returns: [bool; PEERS as usize],
    /// The newest hello that was sent over each path of each peer.
    newest: [[u32; PATHS as usize]; PEERS as usize],
}

impl Story {
    fn new() -> Self {
        Self {
            now: Duration::ZERO,
            liveness: Liveness::new(OWN, at(Duration::ZERO)),
            in_use: Default::default(),
            has_returns: [false; PEERS as usize],
            newest: [[0; PATHS as usize]; PEERS as usize],
        }
    }

    fn count(&self, state: PathState) -> [usize; PEERS as usize] {
        std::array::from_fn(|peer| {
            let paths = self.in_use[peer].iter();
            paths.filter(|path| self.liveness.path_state(pop(peer), **path) == state).count()
        })
    }

    fn hello(&self, peer: usize, path: u8, sequence: u32, report: Option<Report>) -> Hello {
        let mut reports = Reports::EMPTY;
        if let Some(report) = report {
            reports.push(report);
        }
        let sent_us = self.now.as_micros() as u64;
        Hello { source: pop(peer), path: PathId(path.into()), sequence, sent_us, reports }
    }

    fn step(&mut self, [what, peer, path, s1, s0, a1, a0, mask]: [u8; 8]) {
        let (peer, path) = (usize::from(peer % PEERS), path % PATHS);
        let (sequence, age) = (u16::from_be_bytes([s1, s0]), u16::from_be_bytes([a1, a0]));
        match what % 8 {
            0 => self.wait(Duration::from_millis(u64::from(age % 400))),
            1 => self.wait(Duration::from_millis(u64::from(age % 4_000))),
            2 => {
                let count = u32::from(sequence % 6);
                let paths: Vec<_> = (0..count).map(|more| PathId(u32::from(path) + more)).collect();
                self.in_use[peer].clone_from(&paths);
                self.liveness.set_paths(at(self.now), pop(peer), &paths);
            }
            3 => {
                let paths: Vec<_> = (0..u32::from(sequence % 4)).map(PathId).collect();
                self.has_returns[peer] |= !paths.is_empty();
                self.liveness.set_return_paths(at(self.now), pop(peer), &paths);
            }
            // A report about what was sent: heard, or missing for a while.
            4..=6 => {
                let newest = self.newest[peer][usize::from(path)].wrapping_sub(u32::from(mask % 8));
                let report = Report {
                    path: PathId(path.into()),
                    sequence: newest,
                    heard: u32::from(mask) << 8 | u32::from(a1) << 16 | 0xff,
                    age_us: u32::from(age) * 10,
                };
                self.take(self.hello(peer, path, sequence.into(), Some(report)), what);
            }
            // Anything.
            _ => {
                let report = Report {
                    path: PathId(u32::from(mask)),
                    sequence: u32::from(age) << 16,
                    heard: u32::from(mask) | 1,
                    age_us: u32::MAX - u32::from(age),
                };
                self.take(self.hello(peer, path, u32::from(sequence) << 16, Some(report)), what);
            }
        }
        self.settle();
    }

    fn take(&mut self, hello: Hello, what: u8) {
        let generation = KeyGeneration(u64::from(what >> 7));
        let once = self.liveness.handle_hello(at(self.now), generation, &hello);
        let again = self.liveness.handle_hello(at(self.now), generation, &hello);
        assert!(again.is_err(), "{once:?}, then accepted");
    }

    /// Nothing comes for a while.
    fn wait(&mut self, time: Duration) {
        let alive = self.count(PathState::Alive);
        let end = self.now + time;
        while let Some(next) = self.liveness.poll_timeout().filter(|next| *next <= at(end)) {
            assert!(next > at(self.now), "a timeout that is over");
            self.now += next - at(self.now);
            self.settle();
        }
        self.now = end;
        self.settle();
        let dead = self.count(PathState::Dead);
        for (peer, paths) in self.in_use.iter().enumerate() {
            let is_left = alive[peer] == 0 || dead[peer] < paths.len();
            assert!(is_left || self.has_returns[peer], "silence took the last path to {peer}");
        }
    }

    fn settle(&mut self) {
        let mut sent = 0;
        while let Some(due) = self.liveness.poll_hello(at(self.now)) {
            sent += 1;
            assert!(sent <= MAX_PATHS, "more hellos at one instant than there are paths");
            let PopId(peer) = due.peer;
            if let Some(newest) = self.newest[peer as usize - 2].get_mut(due.hello.path.0 as usize) {
                *newest = due.hello.sequence;
            }
            assert!(due.padded_to.is_none_or(|length| (1_200..=1_424).contains(&length)));
        }
        while let Some(event) = self.liveness.poll_event() {
            if let Event::PathDead { peer, path, .. } = event {
                assert_ne!(self.liveness.path_state(peer, path), PathState::Unknown);
            }
        }
    }
}

fn pop(peer: usize) -> PopId {
    PopId(peer as u32 + 2)
}

/// The bytes as a packet, then as a story.
pub(crate) fn run(bytes: &[u8]) {
    packet(bytes);
    let mut story = Story::new();
    for step in bytes.as_chunks::<8>().0.iter().take(MAX_STEPS) {
        story.step(*step);
    }
}
