//! PoPs in virtual time, joined by a network with delay, loss and reordering, seeded.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use l4proxy_tunnel::{
    ConnectionKey, DropReason, Identity, MAX_PACKET, Role, TransmitKind, TunnelEvent, TunnelOptions, Tunnels,
};
use l4proxy_wire::ids::PopId;

use crate::certificates::Authority;

/// The conditions of the network, both directions alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions {
    pub(crate) delay: Duration,
    /// Up to this much is added at random: packets overtake each other.
    pub(crate) jitter: Duration,
    pub(crate) loss: f64,
    pub(crate) is_cut: bool,
    /// `None`: as much as is sent.
    pub(crate) bottleneck: Option<Bottleneck>,
}

/// Where packets wait for each other, one in each direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bottleneck {
    pub(crate) bytes_per_second: f64,
    /// What finds so much waiting is dropped.
    pub(crate) queue_bytes: f64,
}

/// IPv4 and UDP around a packet.
const OUTSIDE: usize = 28;

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            is_cut: false,
            bottleneck: None,
        }
    }
}

/// A packet on its way.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) kind: TransmitKind,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Pop {
    pub(crate) id: PopId,
    pub(crate) tunnels: Tunnels,
    pub(crate) events: VecDeque<TunnelEvent>,
    /// Frames that came over channels, encoded again: with the connection.
    pub(crate) frames: Vec<(ConnectionKey, Vec<u8>)>,
    pub(crate) channel_drops: Vec<DropReason>,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) pops: Vec<Pop>,
    pub(crate) conditions: Conditions,
    /// Copies of everything that was delivered, when wanted.
    pub(crate) captured: Option<Vec<Packet>>,
    in_flight: BTreeMap<(Instant, u64), Packet>,
    /// When each PoP's bottleneck has sent what waits.
    free_at: BTreeMap<usize, Instant>,
    next_number: u64,
    random: u64,
    buffer: Vec<u8>,
}

/// An id made of the name; any injective rule will do here.
pub(crate) fn pop_id(name: &str) -> PopId {
    PopId(name.bytes().fold(7, |id: u32, byte| id.wrapping_mul(31).wrapping_add(u32::from(byte))))
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(),
            pops: Vec::new(),
            conditions: Conditions::default(),
            captured: None,
            in_flight: BTreeMap::new(),
            free_at: BTreeMap::new(),
            next_number: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            buffer: Vec::new(),
        }
    }

    /// Two PoPs, `ams` (0) and `iad` (1), of one fleet.
    pub(crate) fn pair(seed: u64) -> Self {
        let authority = Authority::new();
        let mut world = Self::new(seed);
        world.add_pop("ams", authority.identity("ams"), |_| ());
        world.add_pop("iad", authority.identity("iad"), |_| ());
        world.know_each_other(&["ams", "iad"]);
        world
    }

    pub(crate) fn add_pop(
        &mut self,
        name: &str,
        identity: Identity,
        adjust: impl FnOnce(&mut TunnelOptions),
    ) -> usize {
        let number = self.pops.len();
        let id = pop_id(name);
        let mut options = TunnelOptions::new(number as u8 + 1, id, [number as u8; 32]);
        adjust(&mut options);
        let mut tunnels = Tunnels::new(options);
        tunnels.set_identity(identity).unwrap();
        let (events, frames, channel_drops) = (VecDeque::new(), Vec::new(), Vec::new());
        self.pops.push(Pop { id, tunnels, events, frames, channel_drops });
        number
    }

    pub(crate) fn know_each_other(&mut self, names: &[&str]) {
        let peers: Vec<(PopId, String)> =
            names.iter().map(|name| (pop_id(name), (*name).to_owned())).collect();
        for pop in &mut self.pops {
            pop.tunnels.set_peers(&peers);
        }
    }

    pub(crate) fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Dials from PoP `from` to PoP `to`.
    pub(crate) fn connect(&mut self, from: usize, to: usize, role: Role, policy: &str) -> ConnectionKey {
        let peer = self.pops[to].id;
        self.pops[from].tunnels.connect(self.now, peer, role, policy).unwrap()
    }

    /// Dials and runs until both ends are connected; their keys.
    pub(crate) fn connected(&mut self, from: usize, to: usize, role: Role) -> (ConnectionKey, ConnectionKey) {
        let dialled = self.connect(from, to, role, "off");
        let mut accepted = None;
        let mut is_ready = false;
        self.run_until(Duration::from_secs(5), |world| {
            for event in std::mem::take(&mut world.pops[to].events) {
                match event {
                    TunnelEvent::Connected { key, .. } => accepted = Some(key),
                    other => world.pops[to].events.push_back(other),
                }
            }
            let events = &mut world.pops[from].events;
            is_ready |= events
                .iter()
                .any(|event| matches!(event, TunnelEvent::HelloReceived { key, .. } if *key == dialled));
            is_ready && accepted.is_some()
        });
        (dialled, accepted.expect("the handshake succeeds"))
    }

    /// Runs until `done`, or panics after `limit` of virtual time.
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = self.now + limit;
        loop {
            self.drain();
            if done(self) {
                self.drain();
                return;
            }
            // What `done` did may have given something to send.
            self.drain();
            let next = self.next_moment().unwrap_or(deadline);
            assert!(self.now < deadline && next <= deadline, "not done within {limit:?}");
            self.advance(next);
        }
    }

    /// Runs for some virtual time.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.drain();
            match self.next_moment() {
                Some(next) if next <= end => self.advance(next),
                Some(_) | None => break,
            }
        }
        self.now = end;
    }

    fn next_moment(&mut self) -> Option<Instant> {
        let packet = self.in_flight.keys().next().map(|(at, _)| *at);
        self.pops.iter_mut().filter_map(|pop| pop.tunnels.poll_timeout()).chain(packet).min()
    }

    fn advance(&mut self, to: Instant) {
        self.now = self.now.max(to);
        while let Some(entry) = self.in_flight.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let packet = entry.remove();
            self.deliver(packet);
        }
        for pop in &mut self.pops {
            if pop.tunnels.poll_timeout().is_some_and(|at| at <= self.now) {
                pop.tunnels.handle_timeout(self.now);
            }
        }
    }

    /// Hands a packet to its PoP, now.
    pub(crate) fn deliver(&mut self, mut packet: Packet) {
        if let Some(captured) = &mut self.captured {
            captured.push(packet.clone());
        }
        let from = self.pops[packet.from].id;
        let pop = &mut self.pops[packet.to];
        match packet.kind {
            // Anything may be dropped; it is counted.
            TransmitKind::Quic => {
                let _ = pop.tunnels.handle_quic(self.now, from, BytesMut::from(&packet.bytes[..]), 0);
            }
            TransmitKind::Channel => match pop.tunnels.handle_channel(self.now, &mut packet.bytes) {
                Ok(received) => {
                    for frame in received.frames() {
                        let mut encoded = Vec::new();
                        frame.encode(&mut encoded).unwrap();
                        pop.frames.push((received.connection, encoded));
                    }
                }
                Err(reason) => pop.channel_drops.push(reason),
            },
        }
    }

    /// Polls every PoP until it has nothing left.
    pub(crate) fn drain(&mut self) {
        let segments = NonZeroUsize::new(10).unwrap();
        let mut buffer = std::mem::take(&mut self.buffer);
        for from in 0..self.pops.len() {
            loop {
                let pop = &mut self.pops[from];
                while let Some(event) = pop.tunnels.poll_event() {
                    pop.events.push_back(event);
                }
                let Some(transmit) = pop.tunnels.poll_transmit(self.now, &mut buffer, segments) else {
                    break;
                };
                assert_eq!(transmit.size, buffer.len());
                let to = self.pops.iter().position(|pop| pop.id == transmit.peer).unwrap();
                for datagram in buffer.chunks(transmit.segment_size.unwrap_or(transmit.size)) {
                    assert!(datagram.len() <= MAX_PACKET);
                    self.send(Packet { from, to, kind: transmit.kind, bytes: datagram.to_vec() });
                }
            }
        }
        self.buffer = buffer;
    }

    fn send(&mut self, packet: Packet) {
        let mut leaves = self.now;
        if let Some(bottleneck) = self.conditions.bottleneck {
            let free_at = self.free_at.entry(packet.from).or_insert(self.now);
            *free_at = (*free_at).max(self.now);
            if (*free_at - self.now).as_secs_f64() * bottleneck.bytes_per_second > bottleneck.queue_bytes {
                return;
            }
            let bytes = (packet.bytes.len() + OUTSIDE) as f64;
            *free_at += Duration::from_secs_f64(bytes / bottleneck.bytes_per_second);
            leaves = *free_at;
        }
        if self.conditions.is_cut || self.random() < self.conditions.loss {
            return;
        }
        let at = leaves + self.conditions.delay + self.conditions.jitter.mul_f64(self.random());
        self.next_number += 1;
        self.in_flight.insert((at, self.next_number), packet);
    }

    /// Takes the oldest event of a PoP for which `pick` gives something; the others stay.
    pub(crate) fn take_event<T>(
        &mut self,
        pop: usize,
        mut pick: impl FnMut(&TunnelEvent) -> Option<T>,
    ) -> Option<T> {
        let events = &mut self.pops[pop].events;
        let (position, value) =
            events.iter().enumerate().find_map(|(position, event)| Some((position, pick(event)?)))?;
        events.remove(position);
        Some(value)
    }

    /// Runs until PoP `pop` has an event for which `pick` gives something.
    pub(crate) fn wait_event<T>(&mut self, pop: usize, mut pick: impl FnMut(&TunnelEvent) -> Option<T>) -> T {
        let mut found = None;
        self.run_until(Duration::from_secs(40), |world| {
            found = found.take().or_else(|| world.take_event(pop, &mut pick));
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn drops(&self, pop: usize, reason: impl Into<DropReason>) -> u64 {
        self.pops[pop].tunnels.counters().drops.get(&reason.into()).copied().unwrap_or(0)
    }
}
