//! PoPs in virtual time, joined by a network with delay, loss and reordering, seeded.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use l4proxy_tunnel::{
    ConnectionKey, DatagramMode, DropReason, Identity, MAX_PACKET, Received, ReturnAddress, Role,
    TransmitKind, TunnelEvent, TunnelOptions, Tunnels,
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
    /// Share of packets of which one byte is changed.
    pub(crate) corruption: f64,
    pub(crate) is_cut: bool,
    /// Bytes a second that each PoP can send, and how many may wait for that; 0: no limit.
    pub(crate) rate: u64,
    pub(crate) queue: u64,
    /// Longer packets are dropped.
    pub(crate) max_packet: usize,
}

/// The network swallows everything for a time, carries for another, and so on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlackHole {
    pub(crate) began: Instant,
    pub(crate) dead: Duration,
    pub(crate) alive: Duration,
}

impl BlackHole {
    fn swallows(&self, now: Instant) -> bool {
        let into = (now - self.began).as_nanos() % (self.dead + self.alive).as_nanos();
        into < self.dead.as_nanos()
    }
}

/// A PoP behind NAT: what it sends comes from a port that may change at any time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nat {
    pub(crate) pop: usize,
    pub(crate) port: u16,
    /// Which the others know; they are told by other means than these tunnels.
    pub(crate) known: Option<u16>,
}

impl Nat {
    fn address(&self) -> ReturnAddress {
        let [local, remote] = [4600, self.port].map(|port| ([192, 0, 2, 1], port).into());
        ReturnAddress { local, remote }
    }
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            corruption: 0.0,
            is_cut: false,
            max_packet: MAX_PACKET,
            rate: 0,
            queue: 0,
        }
    }
}

/// A packet on its way.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) kind: TransmitKind,
    /// Where a PoP behind NAT sent it from.
    pub(crate) port: u16,
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
    pub(crate) black_hole: Option<BlackHole>,
    pub(crate) nat: Option<Nat>,
    /// Copies of everything that was delivered, when wanted.
    pub(crate) captured: Option<Vec<Packet>>,
    /// The longest packet that each PoP has sent, in bytes.
    pub(crate) longest_sent: Vec<usize>,
    /// Packets that were dropped because they are too long.
    pub(crate) too_long: u64,
    /// When the link of each PoP has sent what waits for it.
    link_free_at: Vec<Instant>,
    in_flight: BTreeMap<(Instant, u64), Packet>,
    /// Packets that found it full.
    pub(crate) overflowed: u64,
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
            black_hole: None,
            nat: None,
            captured: None,
            longest_sent: Vec::new(),
            too_long: 0,
            link_free_at: Vec::new(),
            in_flight: BTreeMap::new(),
            overflowed: 0,
            next_number: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            buffer: Vec::new(),
        }
    }

    /// Two PoPs, `ams` (0) and `iad` (1), of one fleet.
    pub(crate) fn pair(seed: u64) -> Self {
        Self::pair_with(seed, [DatagramMode::Channel; 2])
    }

    /// The same, with what each of the two wants to carry datagrams.
    pub(crate) fn pair_with(seed: u64, [ams, iad]: [DatagramMode; 2]) -> Self {
        let authority = Authority::new();
        let mut world = Self::new(seed);
        world.add_pop("ams", authority.identity("ams"), |options| options.datagrams = ams);
        world.add_pop("iad", authority.identity("iad"), |options| options.datagrams = iad);
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
        self.longest_sent.push(0);
        self.link_free_at.push(self.now);
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
        let stranger = self.nat.filter(|nat| nat.pop == packet.from && nat.known != Some(packet.port));
        let pop = &mut self.pops[packet.to];
        match packet.kind {
            TransmitKind::Quic if let Some(nat) = stranger => {
                let back = Nat { port: packet.port, ..nat }.address();
                let _ = pop.tunnels.handle_stranger(self.now, back, BytesMut::from(&packet.bytes[..]), 0);
            }
            // Anything may be dropped; it is counted.
            TransmitKind::Quic => {
                let _ = pop.tunnels.handle_quic(self.now, from, None, BytesMut::from(&packet.bytes[..]), 0);
                while let Some(received) = pop.tunnels.poll_received(self.now) {
                    keep_frames(&mut pop.frames, &received);
                }
            }
            TransmitKind::Channel => match pop.tunnels.handle_channel(self.now, &mut packet.bytes) {
                Ok(received) => keep_frames(&mut pop.frames, &received),
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
                let named = || self.pops.iter().position(|pop| pop.id == transmit.peer).unwrap();
                let (to, port) = match (transmit.back_to, self.nat) {
                    (Some(back), Some(nat)) => (nat.pop, Some(back.remote.port())),
                    (None, Some(nat)) if named() == nat.pop => (nat.pop, nat.known),
                    // To a stranger that is not in this world.
                    (Some(_), None) => continue,
                    (None, Some(_) | None) => (named(), None),
                };
                // To a mapping that is not there any more.
                let is_lost = self.nat.is_some_and(|nat| nat.pop == to && port != Some(nat.port));
                let port = self.nat.map_or(0, |nat| nat.port);
                for datagram in buffer.chunks(transmit.segment_size.unwrap_or(transmit.size)) {
                    assert!(datagram.len() <= MAX_PACKET);
                    if !is_lost {
                        self.send(Packet { from, to, kind: transmit.kind, port, bytes: datagram.to_vec() });
                    }
                }
            }
        }
        self.buffer = buffer;
    }

    /// Everything goes over another path from here on; what is on its way arrives as before.
    pub(crate) fn take_path(&mut self, conditions: Conditions) {
        self.conditions = conditions;
        self.link_free_at.fill(self.now);
    }

    fn send(&mut self, mut packet: Packet) {
        let is_too_long = packet.bytes.len() > self.conditions.max_packet;
        self.too_long += u64::from(is_too_long);
        self.longest_sent[packet.from] = self.longest_sent[packet.from].max(packet.bytes.len());
        let is_swallowed = self.black_hole.is_some_and(|hole| hole.swallows(self.now));
        if self.conditions.is_cut || is_too_long || is_swallowed || self.random() < self.conditions.loss {
            return;
        }
        if self.conditions.corruption > 0.0 && self.random() < self.conditions.corruption {
            let at = (self.random() * packet.bytes.len() as f64) as usize;
            packet.bytes[at] ^= 1 << ((self.random() * 8.0) as u8);
        }
        let Some(leaves) = self.leave(packet.from, packet.bytes.len()) else { return };
        let at = leaves + self.conditions.delay + self.conditions.jitter.mul_f64(self.random());
        self.next_number += 1;
        self.in_flight.insert((at, self.next_number), packet);
    }

    /// When a packet has left a link of the rate; `None`: the queue before it is full.
    fn leave(&mut self, from: usize, length: usize) -> Option<Instant> {
        if self.conditions.rate == 0 {
            return Some(self.now);
        }
        let time_of = |bytes: u64| Duration::from_secs_f64(bytes as f64 / self.conditions.rate as f64);
        let begins = self.link_free_at[from].max(self.now);
        if begins - self.now > time_of(self.conditions.queue) {
            self.overflowed += 1;
            return None;
        }
        self.link_free_at[from] = begins + time_of(length as u64);
        Some(self.link_free_at[from])
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

fn keep_frames(kept: &mut Vec<(ConnectionKey, Vec<u8>)>, received: &Received<'_>) {
    for frame in received.frames() {
        let mut encoded = Vec::new();
        frame.encode(&mut encoded).unwrap();
        kept.push((received.connection, encoded));
    }
}
