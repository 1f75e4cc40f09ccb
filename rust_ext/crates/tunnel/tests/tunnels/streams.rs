//! TCP flows: opening, carrying, half-closing, resetting, and waiting for a reader that does not read.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use l4proxy_tunnel::{
    ConnectionKey, DropReason, Role, SendError, StreamRead, StreamWrite, TunnelEvent, TunnelStream,
};
use l4proxy_wire::codes::{CloseCode, Reason, StreamCode};
use l4proxy_wire::ids::FlowId;
use l4proxy_wire::open::{Open, Protocol};

use crate::certificates::Authority;
use crate::world::{World, pop_id};

pub(crate) fn open(flow: u64) -> Open<'static> {
    Open {
        protocol: Protocol::Tcp,
        flow: FlowId(flow),
        app: "ssh",
        origin: "origin.example:22",
        client: "198.51.100.7:40000".parse().unwrap(),
        listener: "[2001:db8::5]:22".parse().unwrap(),
        deadline_ms: 3000,
    }
}

/// What all flows are made of: bytes without a shorter period, a prime number of them.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..65_521).map(next).collect()
});

/// The bytes at a position of a long flow; those of another position or flow differ.
pub(crate) fn bytes_at(flow: u64, position: u64, length: usize) -> Vec<u8> {
    let mut start = ((position + flow * 7919) % PATTERN.len() as u64) as usize;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let rest = &PATTERN[start..];
        bytes.extend_from_slice(&rest[..rest.len().min(length - bytes.len())]);
        start = 0;
    }
    bytes
}

/// The next stream offered to PoP `pop`.
pub(crate) fn incoming(world: &mut World, pop: usize) -> (TunnelStream, FlowId) {
    world.wait_event(pop, |event| match event {
        TunnelEvent::StreamIncoming { stream, open, .. } => Some((*stream, open.flow)),
        _ => None,
    })
}

fn gone_code(world: &mut World, pop: usize, wanted: TunnelStream) -> Option<StreamCode> {
    world.wait_event(pop, |event| match event {
        TunnelEvent::StreamGone { stream, code, .. } if *stream == wanted => Some(*code),
        _ => None,
    })
}

/// An open stream from PoP 0 to PoP 1; its ends.
pub(crate) fn opened(world: &mut World, key: ConnectionKey) -> (TunnelStream, TunnelStream) {
    let here = world.pops[0].tunnels.open_stream(key, &open(1)).unwrap();
    let (there, _) = incoming(world, 1);
    assert!(world.pops[1].tunnels.accept(there));
    world.wait_event(0, |event| match event {
        TunnelEvent::StreamOpened { stream } => (*stream == here).then_some(()),
        _ => None,
    });
    (here, there)
}

/// Everything that can be read now, and how it stopped.
pub(crate) fn read_all(world: &mut World, pop: usize, stream: TunnelStream) -> (Vec<u8>, StreamRead) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        match world.pops[pop].tunnels.read(stream, &mut buffer) {
            StreamRead::Data(count) => bytes.extend_from_slice(&buffer[..count]),
            end => return (bytes, end),
        }
    }
}

/// One direction of a long flow: a sender that follows `StreamWritable`, a receiver that follows `StreamReadable`.
pub(crate) struct Transfer {
    pub(crate) from: (usize, TunnelStream),
    pub(crate) to: (usize, TunnelStream),
    pub(crate) flow: u64,
    pub(crate) total: u64,
    pub(crate) written: u64,
    pub(crate) read: u64,
    pub(crate) is_finished: bool,
    /// The flow ends with it; else another one goes on where it ends.
    pub(crate) is_last: bool,
    may_write: bool,
    may_read: bool,
}

impl Transfer {
    pub(crate) fn new(from: (usize, TunnelStream), to: (usize, TunnelStream), flow: u64, total: u64) -> Self {
        let (written, read, is_finished) = (0, 0, false);
        Self {
            from,
            to,
            flow,
            total,
            written,
            read,
            is_finished,
            is_last: true,
            may_write: true,
            may_read: false,
        }
    }

    /// Acts on the events that concern this transfer and goes on. `true` when the receiver has seen the end.
    pub(crate) fn step(&mut self, world: &mut World) -> bool {
        let (sender, receiver) = (self.from, self.to);
        while world
            .take_event(sender.0, |event| match event {
                TunnelEvent::StreamWritable { stream } => (*stream == sender.1).then_some(()),
                _ => None,
            })
            .is_some()
        {
            self.may_write = true;
        }
        while world
            .take_event(receiver.0, |event| match event {
                TunnelEvent::StreamReadable { stream } => (*stream == receiver.1).then_some(()),
                _ => None,
            })
            .is_some()
        {
            self.may_read = true;
        }
        self.write(world);
        self.read(world);
        self.is_finished || (!self.is_last && self.read == self.total)
    }

    fn write(&mut self, world: &mut World) {
        while self.may_write && self.written < self.total {
            let length = (self.total - self.written).min(50_000) as usize;
            let bytes = bytes_at(self.flow, self.written, length);
            match world.pops[self.from.0].tunnels.write(self.from.1, &bytes) {
                StreamWrite::Wrote(count) => {
                    self.written += count as u64;
                    self.may_write = count == length;
                }
                StreamWrite::Blocked => self.may_write = false,
                StreamWrite::Gone => panic!("the sender's stream is gone"),
            }
            if self.written == self.total && self.is_last {
                world.pops[self.from.0].tunnels.finish(self.from.1);
            }
        }
    }

    fn read(&mut self, world: &mut World) {
        let mut buffer = [0; 30_000];
        while self.may_read {
            match world.pops[self.to.0].tunnels.read(self.to.1, &mut buffer) {
                StreamRead::Data(count) => {
                    assert!(buffer[..count] == bytes_at(self.flow, self.read, count), "at {}", self.read);
                    self.read += count as u64;
                }
                StreamRead::Blocked => self.may_read = false,
                StreamRead::Finished => {
                    assert_eq!(self.read, self.total);
                    self.is_finished = true;
                    self.may_read = false;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn an_opened_flow_carries_bytes_both_ways_and_ends_without_a_trace() {
    let mut world = World::pair(70);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let here = world.pops[0].tunnels.open_stream(key, &open(0xabcd)).unwrap();
    assert_eq!(world.pops[0].tunnels.read(here, &mut [0; 9]), StreamRead::Blocked);
    let (there, asked) = world.wait_event(1, |event| match event {
        TunnelEvent::StreamIncoming { stream, peer, open } => {
            assert_eq!(*peer, pop_id("ams"));
            Some((*stream, open.clone()))
        }
        _ => None,
    });
    assert_eq!(asked, open(0xabcd).to_owned());
    // Nothing flows before the answer.
    assert_eq!(world.pops[1].tunnels.write(there, b"early"), StreamWrite::Gone);
    assert!(world.pops[1].tunnels.accept(there));
    assert!(!world.pops[1].tunnels.accept(there), "only once");
    assert_eq!(world.pops[1].tunnels.write(there, b"banner"), StreamWrite::Wrote(6));
    world.wait_event(0, |event| matches!(event, TunnelEvent::StreamOpened { .. }).then_some(()));
    assert_eq!(world.pops[0].tunnels.write(here, b"request"), StreamWrite::Wrote(7));
    world.pops[0].tunnels.finish(here);
    world.run_for(Duration::from_millis(100));
    assert_eq!(read_all(&mut world, 0, here), (b"banner".to_vec(), StreamRead::Blocked));
    assert_eq!(read_all(&mut world, 1, there), (b"request".to_vec(), StreamRead::Finished));
    // Half closed: the other direction goes on.
    assert_eq!(world.pops[0].tunnels.write(here, b"x"), StreamWrite::Gone);
    assert_eq!(world.pops[1].tunnels.write(there, b"answer"), StreamWrite::Wrote(6));
    world.pops[1].tunnels.finish(there);
    world.run_for(Duration::from_millis(100));
    assert_eq!(read_all(&mut world, 0, here), (b"answer".to_vec(), StreamRead::Finished));
    assert_eq!(world.pops[0].tunnels.read(here, &mut [0; 9]), StreamRead::Gone);
    for pop in [0, 1] {
        assert_eq!(world.pops[pop].tunnels.counters().streams, 0);
        let gone = world.take_event(pop, |e| matches!(e, TunnelEvent::StreamGone { .. }).then_some(()));
        assert_eq!(gone, None);
    }
}

#[test]
fn a_stream_opened_during_the_handshake_waits_with_its_early_bytes() {
    let mut world = World::pair(71);
    let key = world.connect(0, 1, Role::Flows, "off");
    let here = world.pops[0].tunnels.open_stream(key, &open(5)).unwrap();
    let early = bytes_at(5, 0, 100_000);
    // 64 KiB with OPEN itself.
    let StreamWrite::Wrote(taken) = world.pops[0].tunnels.write(here, &early) else {
        panic!("nothing taken")
    };
    assert_eq!(taken, 65_536 - (3 + open(5).encoded_length()));
    assert_eq!(world.pops[0].tunnels.write(here, &early[taken..]), StreamWrite::Blocked);
    world.wait_event(0, |event| matches!(event, TunnelEvent::StreamWritable { .. }).then_some(()));
    assert_eq!(world.pops[0].tunnels.write(here, &early[taken..]), StreamWrite::Wrote(100_000 - taken));
    world.pops[0].tunnels.finish(here);
    let (there, _) = incoming(&mut world, 1);
    world.pops[1].tunnels.accept(there);
    world.run_for(Duration::from_millis(200));
    let (bytes, end) = read_all(&mut world, 1, there);
    assert!(bytes == early);
    assert_eq!(end, StreamRead::Finished);
}

#[test]
fn a_refused_stream_says_why_and_is_gone_at_both_ends() {
    let mut world = World::pair(72);
    let (key, _) = world.connected(0, 1, Role::Flows);
    for reason in Reason::ALL {
        let here = world.pops[0].tunnels.open_stream(key, &open(1)).unwrap();
        world.pops[0].tunnels.write(here, b"early bytes that nobody will read");
        let (there, _) = incoming(&mut world, 1);
        world.pops[1].tunnels.refuse(there, *reason);
        let told = world.wait_event(0, |event| match event {
            TunnelEvent::StreamRefused { stream, reason } if *stream == here => Some(*reason),
            _ => None,
        });
        assert_eq!(told, *reason);
        assert_eq!(world.pops[0].tunnels.write(here, b"x"), StreamWrite::Gone);
        assert_eq!(world.pops[1].tunnels.read(there, &mut [0; 9]), StreamRead::Gone);
    }
    assert_eq!(world.pops[0].tunnels.counters().streams, 0);
    assert_eq!(world.pops[1].tunnels.counters().streams, 0);
}

#[test]
fn a_reset_reaches_the_other_end_with_its_code() {
    let mut world = World::pair(73);
    let (key, _) = world.connected(0, 1, Role::Flows);
    for code in StreamCode::ALL {
        let (here, there) = opened(&mut world, key);
        world.pops[0].tunnels.write(here, &[1; 5000]);
        world.pops[0].tunnels.reset(here, *code);
        assert_eq!(gone_code(&mut world, 1, there), Some(*code));
        assert_eq!(world.pops[1].tunnels.write(there, b"x"), StreamWrite::Gone);
        let (here, there) = opened(&mut world, key);
        world.pops[1].tunnels.write(there, &[1; 5000]);
        world.pops[1].tunnels.reset(there, *code);
        assert_eq!(gone_code(&mut world, 0, here), Some(*code));
        assert_eq!(world.pops[0].tunnels.read(here, &mut [0; 9]), StreamRead::Gone);
    }
    assert_eq!(world.pops[0].tunnels.counters().streams, 0);
    assert_eq!(world.pops[1].tunnels.counters().streams, 0);
}

#[test]
fn a_reset_after_a_half_close_is_a_reset() {
    let mut world = World::pair(74);
    let (key, _) = world.connected(0, 1, Role::Flows);
    // The end that still sends is told by STOP_SENDING, the one that still reads by RESET_STREAM.
    let (here, there) = opened(&mut world, key);
    world.pops[0].tunnels.finish(here);
    world.run_for(Duration::from_millis(100));
    assert_eq!(read_all(&mut world, 1, there).1, StreamRead::Finished);
    world.pops[0].tunnels.reset(here, StreamCode::TcpReset);
    assert_eq!(gone_code(&mut world, 1, there), Some(StreamCode::TcpReset));
    let (here, there) = opened(&mut world, key);
    world.pops[0].tunnels.finish(here);
    world.run_for(Duration::from_millis(100));
    assert_eq!(read_all(&mut world, 1, there).1, StreamRead::Finished);
    world.pops[1].tunnels.reset(there, StreamCode::TcpReset);
    assert_eq!(gone_code(&mut world, 0, here), Some(StreamCode::TcpReset));
}

#[test]
fn a_stream_reset_before_its_answer_is_gone() {
    let mut world = World::pair(75);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let here = world.pops[0].tunnels.open_stream(key, &open(1)).unwrap();
    let (there, _) = incoming(&mut world, 1);
    world.pops[0].tunnels.reset(here, StreamCode::TcpReset);
    assert_eq!(gone_code(&mut world, 1, there), Some(StreamCode::TcpReset));
    assert!(!world.pops[1].tunnels.accept(there));
    let here = world.pops[0].tunnels.open_stream(key, &open(1)).unwrap();
    let (there, _) = incoming(&mut world, 1);
    world.pops[1].tunnels.reset(there, StreamCode::InternalError);
    assert_eq!(gone_code(&mut world, 0, here), Some(StreamCode::InternalError));
}

#[test]
fn ten_megabytes_cross_both_ways_under_loss() {
    let mut world = World::pair(76);
    world.conditions.loss = 0.01;
    world.conditions.jitter = Duration::from_millis(1);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let (here, there) = opened(&mut world, key);
    let mut up = Transfer::new((0, here), (1, there), 1, 10_000_000);
    let mut down = Transfer::new((1, there), (0, here), 2, 10_000_000);
    world.run_until(Duration::from_secs(60), |world| up.step(world) & down.step(world));
    assert_eq!(world.pops[0].tunnels.counters().streams, 0);
    let stats = world.pops[0].tunnels.connection_stats(key).unwrap();
    assert!(stats.quic_packets_lost > 20, "{stats:?}");
}

#[test]
fn a_reader_that_stops_makes_the_writer_wait_in_bounded_memory() {
    let mut world = World::pair(79);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let (here, there) = opened(&mut world, key);
    let mut written = 0u64;
    let block = [7; 50_000];
    // Nobody reads: so much is taken and no more, however long it goes on.
    for _ in 0..200 {
        if let StreamWrite::Wrote(count) = world.pops[0].tunnels.write(here, &block) {
            written += count as u64;
        }
        world.run_for(Duration::from_millis(50));
    }
    // What a flow may have of which nothing was read, and what each may always have.
    assert_eq!(written, (512 << 10) + (32 << 10));
    world.take_event(0, |event| matches!(event, TunnelEvent::StreamWritable { .. }).then_some(()));
    assert_eq!(world.pops[0].tunnels.write(here, &block), StreamWrite::Blocked);
    // Another flow is not held up by it.
    let (other, other_there) = opened(&mut world, key);
    assert_eq!(world.pops[0].tunnels.write(other, b"hello"), StreamWrite::Wrote(5));
    world.run_for(Duration::from_millis(100));
    assert_eq!(read_all(&mut world, 1, other_there).0, b"hello");
    // Reading lets it go on, and says so once.
    let (bytes, _) = read_all(&mut world, 1, there);
    assert_eq!(bytes.len() as u64, written);
    world.run_for(Duration::from_millis(100));
    let mut told = 0;
    while world
        .take_event(0, |event| match event {
            TunnelEvent::StreamWritable { stream } => (*stream == here).then_some(()),
            _ => None,
        })
        .is_some()
    {
        told += 1;
    }
    assert_eq!(told, 1);
    assert_eq!(world.pops[0].tunnels.write(here, &block), StreamWrite::Wrote(50_000));
}

#[test]
fn readable_is_told_once_until_everything_was_read() {
    let mut world = World::pair(80);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let (here, there) = opened(&mut world, key);
    assert_eq!(read_all(&mut world, 1, there).1, StreamRead::Blocked);
    world.pops[1].events.clear();
    for _ in 0..5 {
        world.pops[0].tunnels.write(here, &[1; 3000]);
        world.run_for(Duration::from_millis(50));
    }
    let count = |world: &World| {
        world.pops[1].events.iter().filter(|e| matches!(e, TunnelEvent::StreamReadable { .. })).count()
    };
    assert_eq!(count(&world), 1);
    // A part is read: no new event, the rest is still there.
    assert_eq!(world.pops[1].tunnels.read(there, &mut [0; 1001]), StreamRead::Data(1001));
    world.run_for(Duration::from_millis(50));
    assert_eq!(count(&world), 1);
    assert_eq!(read_all(&mut world, 1, there).0.len(), 15_000 - 1001);
    world.pops[0].tunnels.write(here, b"more");
    world.run_for(Duration::from_millis(50));
    assert_eq!(count(&world), 2);
}

#[test]
fn a_hundred_flows_at_once_do_not_mix() {
    let mut world = World::pair(81);
    world.conditions.loss = 0.005;
    let (key, _) = world.connected(0, 1, Role::Flows);
    let here: Vec<TunnelStream> =
        (0..100).map(|flow| world.pops[0].tunnels.open_stream(key, &open(flow)).unwrap()).collect();
    let mut there = BTreeMap::new();
    for _ in 0..100 {
        let (stream, flow) = incoming(&mut world, 1);
        world.pops[1].tunnels.accept(stream);
        there.insert(flow.0, stream);
    }
    let mut transfers: Vec<Transfer> = Vec::new();
    for (flow, here) in (0..100u64).zip(here) {
        let there = there[&flow];
        transfers.push(Transfer::new((0, here), (1, there), flow, 40_000 + flow));
        transfers.push(Transfer::new((1, there), (0, here), flow + 1000, 30_000 + flow));
    }
    world.run_until(Duration::from_secs(60), |world| {
        transfers.retain_mut(|transfer| !transfer.step(world));
        transfers.is_empty()
    });
    assert_eq!(world.pops[0].tunnels.counters().streams, 0);
    assert_eq!(world.pops[1].tunnels.counters().streams, 0);
}

#[test]
fn the_listening_end_opens_flows_too() {
    let mut world = World::pair(82);
    let (_, accepted) = world.connected(0, 1, Role::Flows);
    let there = world.pops[1].tunnels.open_stream(accepted, &open(3)).unwrap();
    let (here, flow) = incoming(&mut world, 0);
    assert_eq!(flow, FlowId(3));
    world.pops[0].tunnels.accept(here);
    world.pops[1].tunnels.write(there, b"ping");
    world.run_for(Duration::from_millis(100));
    assert_eq!(read_all(&mut world, 0, here).0, b"ping");
}

#[test]
fn flows_end_with_their_connection() {
    let mut world = World::pair(83);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let (here, there) = opened(&mut world, key);
    let undecided = world.pops[0].tunnels.open_stream(key, &open(2)).unwrap();
    let (offered, _) = incoming(&mut world, 1);
    let now = world.now;
    world.pops[0].tunnels.close(now, key, CloseCode::ShuttingDown);
    for (pop, stream) in [(0, here), (0, undecided), (1, there), (1, offered)] {
        assert_eq!(gone_code(&mut world, pop, stream), None);
        assert_eq!(world.pops[pop].tunnels.write(stream, b"x"), StreamWrite::Gone);
    }
    assert_eq!(world.pops[0].tunnels.open_stream(key, &open(3)), Err(SendError::Gone));
    // The stream's end is told before the connection's.
    let lost = world.pops[1].events.iter().position(|event| matches!(event, TunnelEvent::Lost { .. }));
    assert!(lost.is_some());
}

#[test]
fn a_pair_connection_carries_no_flows() {
    let mut world = World::pair(84);
    let (key, _) = world.connected(0, 1, Role::Pair);
    assert_eq!(world.pops[0].tunnels.open_stream(key, &open(1)), Err(SendError::WrongRole));
}

#[test]
fn streams_that_wait_to_be_opened_are_bounded() {
    let mut world = World::pair(85);
    let key = world.connect(0, 1, Role::Flows, "off");
    for flow in 0..1024 {
        world.pops[0].tunnels.open_stream(key, &open(flow)).unwrap();
    }
    assert_eq!(world.pops[0].tunnels.open_stream(key, &open(9)), Err(SendError::Full));
    assert_eq!(world.drops(0, DropReason::StreamsFull), 1);
    world.run_for(Duration::from_secs(1));
    let offered = world.pops[1]
        .events
        .iter()
        .filter(|event| matches!(event, TunnelEvent::StreamIncoming { .. }))
        .count();
    assert_eq!(offered, 1024);
}

#[test]
fn a_stream_of_an_ended_flow_is_not_the_next_one_in_its_place() {
    let mut world = World::pair(86);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let (old, _) = opened(&mut world, key);
    world.pops[0].tunnels.reset(old, StreamCode::TcpReset);
    let (new, there) = opened(&mut world, key);
    assert_ne!(old, new);
    world.pops[0].tunnels.reset(old, StreamCode::TcpReset);
    assert_eq!(world.pops[0].tunnels.write(old, b"old"), StreamWrite::Gone);
    assert_eq!(world.pops[0].tunnels.write(new, b"new"), StreamWrite::Wrote(3));
    world.run_for(Duration::from_millis(100));
    assert_eq!(read_all(&mut world, 1, there).0, b"new");
}

/// Two PoPs, 80 ms apart, whose connections hold 400 kB at a time, with a small flow and `count` large ones.
fn crowd(seed: u64, count: u64) -> (World, (TunnelStream, TunnelStream), Vec<Transfer>) {
    let authority = Authority::new();
    let mut world = World::new(seed);
    for name in ["ams", "iad"] {
        world.add_pop(name, authority.identity(name), |options| options.send_window_bytes = 400_000);
    }
    world.know_each_other(&["ams", "iad"]);
    world.conditions.delay = Duration::from_millis(40);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let small = opened(&mut world, key);
    let bulk = (0..count).map(|flow| {
        let (here, there) = opened(&mut world, key);
        Transfer::new((0, here), (1, there), flow, 50_000_000)
    });
    let bulk = bulk.collect();
    (world, small, bulk)
}

fn step_all(world: &mut World, transfers: &mut [Transfer]) {
    for transfer in transfers {
        transfer.step(world);
    }
}

#[test]
fn a_small_flow_gets_through_beside_many_large_ones() {
    let (mut world, (small, small_there), mut bulk) = crowd(87, 40);
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        for _ in 0..7 {
            world.run_for(Duration::from_millis(11));
            step_all(&mut world, &mut bulk);
        }
        let asked = world.now;
        let mut is_written = world.pops[0].tunnels.write(small, b"tick") == StreamWrite::Wrote(4);
        world.run_until(Duration::from_secs(5), |world| {
            let may_write = world.take_event(0, |event| match event {
                TunnelEvent::StreamWritable { stream } => (*stream == small).then_some(()),
                _ => None,
            });
            if may_write.is_some() && !is_written {
                is_written = world.pops[0].tunnels.write(small, b"tick") == StreamWrite::Wrote(4);
            }
            step_all(world, &mut bulk);
            !read_all(world, 1, small_there).0.is_empty()
        });
        slowest = slowest.max(world.now - asked);
    }
    assert!(bulk.iter().all(|transfer| !transfer.is_finished), "they were busy all the time");
    // At worst a round trip until there is room, then the way itself.
    assert!(slowest <= Duration::from_millis(130), "{slowest:?}");
}

#[test]
fn a_flow_opened_while_there_is_no_room_keeps_its_order_and_its_end() {
    let (mut world, (small, _), _) = crowd(90, 0);
    let (busy, _) = opened(&mut world, small.connection);
    world.conditions.is_cut = true;
    let mut sent = 0;
    while let StreamWrite::Wrote(count) = world.pops[0].tunnels.write(busy, &[0; 50_000]) {
        sent += count;
    }
    assert!((300_000..=400_000).contains(&sent), "the connection's send window is full: {sent}");
    // OPEN itself cannot go, and what follows waits behind it.
    let here = world.pops[0].tunnels.open_stream(small.connection, &open(77)).unwrap();
    let bytes = bytes_at(77, 0, 3000);
    assert_eq!(world.pops[0].tunnels.write(here, &bytes[..1000]), StreamWrite::Wrote(1000));
    assert_eq!(world.pops[0].tunnels.write(here, &bytes[1000..]), StreamWrite::Wrote(2000));
    world.pops[0].tunnels.finish(here);
    world.conditions.is_cut = false;
    let (there, flow) = incoming(&mut world, 1);
    assert_eq!(flow, FlowId(77));
    world.pops[1].tunnels.accept(there);
    world.run_for(Duration::from_secs(1));
    let (arrived, end) = read_all(&mut world, 1, there);
    assert!(arrived == bytes);
    assert_eq!(end, StreamRead::Finished);
}

#[test]
fn flows_that_overtake_the_hello_wait_for_it() {
    for seed in 91..99 {
        let mut world = World::pair(seed);
        world.conditions.jitter = Duration::from_millis(40);
        let key = world.connect(0, 1, Role::Flows, "off");
        for flow in 0..30 {
            let stream = world.pops[0].tunnels.open_stream(key, &open(flow)).unwrap();
            world.pops[0].tunnels.write(stream, &[0; 3000]);
        }
        let mut flows: Vec<u64> = (0..30).map(|_| incoming(&mut world, 1).1.0).collect();
        flows.sort_unstable();
        assert_eq!(flows, Vec::from_iter(0..30));
    }
}

#[test]
fn large_flows_share_alike_though_one_does_not_wait_for_its_turn() {
    let (mut world, _, mut bulk) = crowd(89, 12);
    let end = world.now + Duration::from_secs(3);
    world.run_until(Duration::from_secs(4), |world| {
        bulk[0].may_write = true;
        step_all(world, &mut bulk);
        world.now >= end
    });
    let (least, most) =
        bulk.iter().fold((u64::MAX, 0), |(least, most), flow| (least.min(flow.read), most.max(flow.read)));
    let total: u64 = bulk.iter().map(|flow| flow.read).sum();
    // The window's worth in every round trip, and nobody twice as much as another.
    assert!(total > 400_000 * 25, "{total}");
    assert!(most < least * 2, "{least} {most}");
}

#[test]
fn more_flows_than_the_peer_allows_wait_for_a_place() {
    /// What the peer allows at one time; the control stream is one of them.
    const ALLOWED: u64 = 10_000 - 1;
    let mut world = World::pair(88);
    let (key, _) = world.connected(0, 1, Role::Flows);
    let offered = |world: &mut World| {
        world.run_for(Duration::from_millis(100));
        let events = std::mem::take(&mut world.pops[1].events);
        let streams = events.into_iter().filter_map(|event| match event {
            TunnelEvent::StreamIncoming { stream, .. } => Some(stream),
            _ => None,
        });
        streams.collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for flow in 0..ALLOWED + 20 {
        world.pops[0].tunnels.open_stream(key, &open(flow)).unwrap();
        if flow % 500 == 0 {
            all.extend(offered(&mut world));
        }
    }
    all.extend(offered(&mut world));
    assert_eq!(all.len() as u64, ALLOWED);
    for stream in all {
        world.pops[1].tunnels.refuse(stream, Reason::LimitReached);
    }
    let mut late = offered(&mut world);
    late.extend(offered(&mut world));
    assert_eq!(late.len(), 20);
}
