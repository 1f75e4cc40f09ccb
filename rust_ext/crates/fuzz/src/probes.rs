//! Probes: any bytes as a packet, and a story of a prober and a responder whose network loses, repeats, holds back and changes packets, and
//! whose clocks step. No request is answered twice, no reply makes two samples, and no sample says what cannot be.
//!
//! An input is a row of steps of four bytes: `what · which · elapsed (ms) · value`.

use std::collections::BTreeSet;
use std::time::Duration;

use l4proxy_proto::keys::KeyGeneration;
use l4proxy_proto::probe::{IncomingLink, ProbeLink, Prober, Responder, Sample};
use l4proxy_wire::ids::{LinkId, PopId};
use l4proxy_wire::keys::{Epoch, ProbeKey};
use l4proxy_wire::probe::{PROBE_LENGTH, Probe, ProbeReply};

use crate::at;

const MAX_STEPS: usize = 128;
const OWN: PopId = PopId(1);
const PEER: PopId = PopId(2);
const LINKS: [LinkId; 3] = [LinkId(1), LinkId(2), LinkId(3)];
const KEY: [u8; 16] = [7; 16];
/// Of the wall clocks when the story begins.
const WALL_NS: u64 = 1_700_000_000_000_000_000;
const LOSS: Duration = Duration::from_secs(1);

/// Packets that may come any time, and again; the oldest make room.
const MAX_FLYING: usize = 64;

fn packet(bytes: &[u8]) {
    let key = ProbeKey::new(KEY);
    let Ok(read) = Probe::decode(bytes) else { return };
    assert_eq!(bytes.len(), PROBE_LENGTH);
    let written = read.probe.encode(&key, read.epoch);
    assert_eq!(written[..40], bytes[..40], "a probe has two encodings");
    assert_eq!(read.verify(&key), written[40..] == bytes[40..]);
}

struct Story {
    now: Duration,
    /// How far the wall clock is from where it should be, ns.
    step_ns: i64,
    prober: Prober,
    responder: Responder,
    generation: u64,
    flying: Vec<Vec<u8>>,
    sampled: BTreeSet<(LinkId, u32, u64)>,
    answered: BTreeSet<(u64, LinkId, u32)>,
}

impl Story {
    fn new() -> Self {
        let mut prober = Prober::new(at(Duration::ZERO));
        let interval = Duration::from_millis(50);
        prober.set_links(at(Duration::ZERO), &LINKS.map(|id| ProbeLink { id, peer: PEER, interval }));
        let mut responder = Responder::new();
        // The third is somebody else's.
        let peers = [OWN, OWN, PopId(9)];
        let incoming: Vec<_> =
            LINKS.into_iter().zip(peers).map(|(id, peer)| IncomingLink { id, peer }).collect();
        responder.set_links(&incoming);
        Self {
            now: Duration::ZERO,
            step_ns: 0,
            prober,
            responder,
            generation: 1,
            flying: Vec::new(),
            sampled: BTreeSet::new(),
            answered: BTreeSet::new(),
        }
    }

    fn wall_ns(&self) -> u64 {
        (WALL_NS + self.now.as_nanos() as u64).wrapping_add_signed(self.step_ns)
    }

    fn send(&mut self, probe: Probe) {
        if self.flying.len() == MAX_FLYING {
            self.flying.remove(0);
        }
        self.flying.push(probe.encode(&ProbeKey::new(KEY), Epoch::new(1)).to_vec());
    }

    fn poll(&mut self) {
        while let Some(due) = self.prober.poll_probe(at(self.now), self.wall_ns()) {
            assert_eq!(due.peer, PEER);
            self.send(Probe::Request(due.request));
        }
        while let Some(lost) = self.prober.poll_lost(at(self.now)) {
            assert_eq!(lost.rtt_ns, None);
            self.take(lost);
        }
        let next = self.prober.poll_timeout().expect("there are links");
        assert!(next > at(self.now), "a timeout that is over");
    }

    fn take(&mut self, sample: Sample) {
        // Wall clocks step, and yet a request is told from every other one by its number and its time together.
        assert!(self.sampled.insert((sample.link, sample.sequence, sample.sent_ns)), "{sample:?} twice");
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let Ok(read) = Probe::decode(bytes) else { return };
        if !read.verify(&ProbeKey::new(KEY)) {
            return;
        }
        let wall_ns = self.wall_ns();
        match read.probe {
            Probe::Request(request) => {
                let generation = KeyGeneration(self.generation);
                let answer = self.responder.handle_request(OWN, generation, &request, wall_ns, wall_ns);
                if let Ok(reply) = answer {
                    let is_first = self.answered.insert((self.generation, request.link, request.sequence));
                    assert!(is_first, "{request:?} is answered twice");
                    assert_ne!(request.link, LINKS[2], "a link of somebody else");
                    assert_eq!((reply.request, reply.residence_ns), (request, 0));
                    let count = self.answered.iter().filter(|(_, link, _)| *link == request.link).count();
                    assert_eq!(reply.received_count as usize, count);
                    self.send(Probe::Reply(reply));
                }
            }
            Probe::Reply(reply) => {
                if let Ok(sample) = self.prober.handle_reply(at(self.now), PEER, &reply, wall_ns) {
                    let rtt_ns = sample.rtt_ns.expect("it came back");
                    assert!(rtt_ns <= LOSS.as_nanos() as u64);
                    assert!(rtt_ns + reply.residence_ns <= wall_ns - reply.request.sent_ns);
                    self.take(sample);
                }
            }
        }
    }

    fn step(&mut self, [what, which, elapsed, value]: [u8; 4]) {
        self.now += Duration::from_millis(elapsed.into());
        self.poll();
        if self.flying.is_empty() {
            return;
        }
        let place = usize::from(which) % self.flying.len();
        let mut packet = self.flying[place].clone();
        match what % 8 {
            // It comes, once or again and again.
            0..=2 => drop(self.flying.remove(place)),
            3 => {}
            // It was changed on its way.
            4 => packet[usize::from(value) % PROBE_LENGTH] ^= 1 << (what / 8 % 8),
            // The peer is authentic, and lies.
            5 => {
                let Ok(read) = Probe::decode(&packet) else { return };
                let request = match read.probe {
                    Probe::Request(request) => request,
                    Probe::Reply(reply) => reply.request,
                };
                let far = u64::from(value) << (what / 8 % 32);
                let reply = ProbeReply {
                    request,
                    received_count: value.into(),
                    received_ns: far,
                    residence_ns: if what & 0x80 == 0 { far } else { u64::MAX - far },
                };
                packet = Probe::Reply(reply).encode(&ProbeKey::new(KEY), Epoch::new(1)).to_vec();
            }
            6 => {
                self.step_ns += (i64::from(value) - 128) * 20_000_000;
                return;
            }
            // The peer has begun a new life: its keys are newer.
            _ => {
                self.generation += 1;
                return;
            }
        }
        self.deliver(&packet);
    }
}

/// The bytes as a packet, then as a story.
pub(crate) fn run(bytes: &[u8]) {
    packet(bytes);
    let mut story = Story::new();
    for step in bytes.as_chunks::<4>().0.iter().take(MAX_STEPS) {
        story.step(*step);
    }
}
