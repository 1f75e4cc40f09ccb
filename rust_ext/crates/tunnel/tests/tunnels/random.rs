//! Properties: whatever callers do in whatever order over whatever network, bytes come out as they went in; whatever
//! bytes come in, nothing panics and connections live on.

use std::collections::BTreeMap;
use std::time::Duration;

use l4proxy_tunnel::{PathHint, Role, StreamRead, StreamWrite, TransmitKind, TunnelEvent, TunnelStream};
use l4proxy_wire::channel::{Datagram, Frame};
use l4proxy_wire::codes::{Reason, StreamCode};
use proptest::prelude::*;

use crate::streams::{bytes_at, open};
use crate::world::{Packet, World};

/// One thing that a caller does. Streams are chosen by number among those there are.
#[derive(Debug, Clone)]
enum Act {
    Open { pop: usize },
    Answer { pop: usize, accept: bool },
    Write { pop: usize, stream: usize, length: usize },
    Read { pop: usize, stream: usize, length: usize },
    Finish { pop: usize, stream: usize },
    Reset { pop: usize, stream: usize },
    Wait { ms: u64 },
    Network { delay_ms: u64, jitter_ms: u64, loss: f64 },
    PathChange { pop: usize },
}

fn act() -> impl Strategy<Value = Act> {
    let (pop, stream) = (0..2usize, 0..8usize);
    prop_oneof![
        2 => pop.clone().prop_map(|pop| Act::Open { pop }),
        3 => (pop.clone(), prop::bool::weighted(0.9)).prop_map(|(pop, accept)| Act::Answer { pop, accept }),
        6 => (pop.clone(), stream.clone(), 1..60_000usize)
            .prop_map(|(pop, stream, length)| Act::Write { pop, stream, length }),
        6 => (pop.clone(), stream.clone(), 1..60_000usize)
            .prop_map(|(pop, stream, length)| Act::Read { pop, stream, length }),
        1 => (pop.clone(), stream.clone()).prop_map(|(pop, stream)| Act::Finish { pop, stream }),
        1 => (pop.clone(), stream).prop_map(|(pop, stream)| Act::Reset { pop, stream }),
        6 => (0..120u64).prop_map(|ms| Act::Wait { ms }),
        1 => (1..60u64, 0..20u64, 0.0..0.05)
            .prop_map(|(delay_ms, jitter_ms, loss)| Act::Network { delay_ms, jitter_ms, loss }),
        1 => pop.prop_map(|pop| Act::PathChange { pop }),
    ]
}

/// What one end of a flow has done.
#[derive(Debug, Clone)]
struct End {
    flow: u64,
    written: u64,
    read: u64,
    is_finished: bool,
    has_seen_end: bool,
}

struct Model {
    world: World,
    keys: [l4proxy_tunnel::ConnectionKey; 2],
    next_flow: u64,
    ends: [BTreeMap<TunnelStream, End>; 2],
    offered: [Vec<(TunnelStream, u64)>; 2],
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut world = World::pair(seed);
        let (dialled, accepted) = world.connected(0, 1, Role::Flows);
        world.run_for(Duration::from_millis(100));
        let (ends, offered) = Default::default();
        Self { world, keys: [dialled, accepted], next_flow: 0, ends, offered }
    }

    fn end(flow: u64) -> End {
        End { flow, written: 0, read: 0, is_finished: false, has_seen_end: false }
    }

    /// The bytes of one direction are those of a number of their own.
    fn direction(pop: usize, flow: u64) -> u64 {
        flow * 2 + pop as u64
    }

    fn pick(&self, pop: usize, number: usize) -> Option<TunnelStream> {
        let streams = &self.ends[pop];
        streams.keys().nth(number % streams.len().max(1)).copied()
    }

    fn act(&mut self, act: Act) {
        let now = self.world.now;
        match act {
            Act::Open { pop } => {
                let flow = self.next_flow;
                self.next_flow += 1;
                let stream = self.world.pops[pop].tunnels.open_stream(self.keys[pop], &open(flow)).unwrap();
                self.ends[pop].insert(stream, Self::end(flow));
            }
            Act::Answer { pop, accept } => {
                let Some((stream, flow)) = self.offered[pop].pop() else { return };
                let tunnels = &mut self.world.pops[pop].tunnels;
                if !accept {
                    tunnels.refuse(stream, Reason::Denied);
                } else if tunnels.accept(stream) {
                    self.ends[pop].insert(stream, Self::end(flow));
                }
            }
            Act::Write { pop, stream, length } => {
                let Some(stream) = self.pick(pop, stream) else { return };
                self.write(pop, stream, length);
            }
            Act::Read { pop, stream, length } => {
                let Some(stream) = self.pick(pop, stream) else { return };
                self.read(pop, stream, length);
            }
            Act::Finish { pop, stream } => {
                let Some(stream) = self.pick(pop, stream) else { return };
                self.world.pops[pop].tunnels.finish(stream);
                self.ends[pop].get_mut(&stream).unwrap().is_finished = true;
            }
            Act::Reset { pop, stream } => {
                let Some(stream) = self.pick(pop, stream) else { return };
                self.world.pops[pop].tunnels.reset(stream, StreamCode::TcpReset);
                self.ends[pop].remove(&stream);
            }
            Act::Wait { ms } => self.world.run_for(Duration::from_millis(ms)),
            Act::Network { delay_ms, jitter_ms, loss } => {
                self.world.conditions.delay = Duration::from_millis(delay_ms);
                self.world.conditions.jitter = Duration::from_millis(jitter_ms);
                self.world.conditions.loss = loss;
            }
            Act::PathChange { pop } => {
                self.world.pops[pop].tunnels.handle_path_loss(now, self.keys[pop], PathHint::default());
            }
        }
        self.world.drain();
        self.take_events();
    }

    fn write(&mut self, pop: usize, stream: TunnelStream, length: usize) {
        let end = self.ends[pop].get_mut(&stream).unwrap();
        let bytes = bytes_at(Self::direction(pop, end.flow), end.written, length);
        match self.world.pops[pop].tunnels.write(stream, &bytes) {
            StreamWrite::Wrote(count) => {
                assert!(!end.is_finished);
                end.written += count as u64;
            }
            StreamWrite::Blocked => assert!(!end.is_finished),
            StreamWrite::Gone => assert!(end.is_finished, "an end that is gone was told so, or has finished"),
        }
    }

    fn read(&mut self, pop: usize, stream: TunnelStream, length: usize) {
        let [first, second] = &mut self.ends;
        let (ours, theirs) = if pop == 0 { (first, second) } else { (second, first) };
        let end = ours.get_mut(&stream).unwrap();
        let mut buffer = vec![0; length];
        match self.world.pops[pop].tunnels.read(stream, &mut buffer) {
            StreamRead::Data(count) => {
                assert!(count > 0 && !end.has_seen_end);
                let expected = bytes_at(Self::direction(1 - pop, end.flow), end.read, count);
                assert!(buffer[..count] == expected, "bytes at {} of flow {}", end.read, end.flow);
                end.read += count as u64;
            }
            StreamRead::Blocked => assert!(!end.has_seen_end),
            StreamRead::Finished => {
                end.has_seen_end = true;
                // Everything that the other end wrote, unless that end is over and forgotten.
                if let Some(other) = theirs.values().find(|other| other.flow == end.flow) {
                    assert!(other.is_finished);
                    assert_eq!(other.written, end.read);
                }
            }
            StreamRead::Gone => assert!(end.has_seen_end && end.is_finished),
            StreamRead::Reset(code) => panic!("resets come as events: {code:?}"),
        }
    }

    fn take_events(&mut self) {
        for pop in 0..2 {
            for event in std::mem::take(&mut self.world.pops[pop].events) {
                match event {
                    TunnelEvent::StreamIncoming { stream, open, .. } => {
                        self.offered[pop].push((stream, open.flow.0));
                    }
                    TunnelEvent::StreamGone { stream, code, .. } => {
                        assert_eq!(code, Some(StreamCode::TcpReset));
                        self.forget(pop, stream);
                    }
                    TunnelEvent::StreamRefused { stream, reason } => {
                        assert_eq!(reason, Reason::Denied);
                        self.forget(pop, stream);
                    }
                    TunnelEvent::StreamOpened { .. }
                    | TunnelEvent::StreamReadable { .. }
                    | TunnelEvent::StreamWritable { .. }
                    | TunnelEvent::Connected { .. }
                    | TunnelEvent::HelloReceived { .. } => {}
                    TunnelEvent::Lost { .. }
                    | TunnelEvent::PairKeys { .. }
                    | TunnelEvent::ChannelWorn { .. }
                    | TunnelEvent::PeerRefused { .. }
                    | TunnelEvent::Bus { .. } => panic!("{event:?}"),
                }
            }
        }
    }

    fn forget(&mut self, pop: usize, stream: TunnelStream) {
        self.ends[pop].remove(&stream);
        self.offered[pop].retain(|(offered, _)| *offered != stream);
    }

    /// Everybody finishes and reads to the end: then nothing may be left anywhere.
    fn wind_up(mut self) {
        self.world.conditions.loss = 0.0;
        for _ in 0..200 {
            for pop in 0..2 {
                while let Some((stream, flow)) = self.offered[pop].pop() {
                    if self.world.pops[pop].tunnels.accept(stream) {
                        self.ends[pop].insert(stream, Self::end(flow));
                    }
                }
                let streams: Vec<TunnelStream> = self.ends[pop].keys().copied().collect();
                for stream in streams {
                    self.world.pops[pop].tunnels.finish(stream);
                    self.ends[pop].get_mut(&stream).unwrap().is_finished = true;
                    for _ in 0..100 {
                        self.read(pop, stream, 100_000);
                    }
                }
            }
            self.world.run_for(Duration::from_millis(200));
            self.take_events();
            if self.world.pops.iter().all(|pop| pop.tunnels.counters().streams == 0) {
                return;
            }
        }
        panic!("streams are left: {:?}", self.ends);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// Bytes come out as they went in, ends are told of ends, and no stream outlives its flow.
    #[test]
    fn flows_keep_their_bytes_and_leave_nothing_behind(
        seed in any::<u64>(),
        acts in prop::collection::vec(act(), 1..150),
    ) {
        let mut model = Model::new(seed);
        for act in acts {
            model.act(act);
        }
        model.wind_up();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any bytes at the two doors, and any damage to real packets, change nothing for those who behave.
    #[test]
    fn any_packets_are_survived(
        seed in any::<u64>(),
        blobs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..40),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..60),
    ) {
        let mut world = World::pair(seed);
        world.captured = Some(Vec::new());
        let (key, accepted) = world.connected(0, 1, Role::Flows);
        let session = l4proxy_wire::ids::SessionId(1);
        let frame = Frame::Data { session, datagram: Datagram::unmarked(b"x") };
        world.pops[0].tunnels.send_frame(key, &frame).unwrap();
        world.run_for(Duration::from_millis(100));
        let captured = world.captured.take().unwrap();
        for kind in [TransmitKind::Quic, TransmitKind::Channel] {
            for blob in &blobs {
                world.deliver(Packet { from: 0, to: 1, kind, port: 0, bytes: blob.clone() });
            }
        }
        for (which, place, value) in damages {
            let mut packet = which.get(&captured).clone();
            let place = place.index(packet.bytes.len());
            packet.bytes[place] = value;
            world.deliver(packet);
        }
        world.run_for(Duration::from_secs(30));
        prop_assert!(world.pops[0].tunnels.connection(key).is_some());
        prop_assert!(world.pops[1].tunnels.connection(accepted).is_some());
    }
}
