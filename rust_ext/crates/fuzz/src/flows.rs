//! UDP flows of two PoPs (docs/protocol.md section 5) over channels that lose, repeat, reorder and end, one end after the other, while either
//! PoP forgets sessions; against a model. The frames are real, and so are the replay window and the bindings of both ends; what an engine does
//! with sockets is a list of what came out.
//!
//! What is promised: a datagram comes out once at most, and at its own flow; a number means the session that it was given to, as long as
//! that was not closed, moved or lost with its channel; sessions are bounded; and once the network behaves again, every flow gets through.
//!
//! An input is a row of steps of three bytes: `what · flow · which`.

use std::collections::{BTreeMap, BTreeSet};

use l4proxy_proto::bindings::{Asked, Asks, Granted, Grants, Place};
use l4proxy_tunnel::replay::ReplayWindow;
use l4proxy_wire::channel::{Datagram, Frame, frames};
use l4proxy_wire::codes::Reason;
use l4proxy_wire::ids::FlowId;
use l4proxy_wire::open::{Open, Protocol};

const MAX_STEPS: usize = 128;
const FLOWS: u8 = 5;
/// Sessions that the egress has room for.
const MAX_GRANTED: usize = 4;
/// Packets on their way; the oldest are lost.
const MAX_FLYING: usize = 48;

/// Names a channel; none is used twice.
type Channel = u32;

#[derive(Debug, Clone)]
struct Packet {
    channel: Channel,
    to_egress: bool,
    counter: u64,
    bytes: Vec<u8>,
}

/// One direction of a channel: the sender's counter and the receiver's window.
#[derive(Default)]
struct Direction {
    next: u64,
    window: ReplayWindow,
}

/// A client's session at the ingress.
#[derive(Debug)]
struct Asking {
    flow: FlowId,
    asked: Asked<Channel>,
}

/// A session at the egress.
#[derive(Debug)]
struct Granting {
    flow: FlowId,
    granted: Granted<Channel>,
}

struct World {
    flying: Vec<Packet>,
    directions: BTreeMap<(Channel, bool), Direction>,
    /// Channels that the ingress and the egress still have.
    open: [BTreeSet<Channel>; 2],
    newest: Channel,
    asks: Asks<Channel>,
    asking: BTreeMap<u32, Asking>,
    grants: Grants<Channel>,
    granting: BTreeMap<u32, Granting>,
    next_number: u32,
    next_flow: u64,
    next_datagram: u64,
    /// Which flow each datagram was sent for, and whether it came out.
    sent: BTreeMap<u64, (FlowId, bool)>,
    /// What every number that was ever given means, at the egress and at the ingress.
    meant: [BTreeMap<Place<Channel>, u32>; 2],
    given: BTreeSet<Place<Channel>>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            flying: Vec::new(),
            directions: BTreeMap::new(),
            open: Default::default(),
            newest: 0,
            asks: Asks::default(),
            asking: BTreeMap::new(),
            grants: Grants::default(),
            granting: BTreeMap::new(),
            next_number: 0,
            next_flow: 0,
            next_datagram: 0,
            sent: BTreeMap::new(),
            meant: Default::default(),
            given: BTreeSet::new(),
        };
        world.new_channel();
        world
    }

    fn new_channel(&mut self) {
        self.newest += 1;
        self.open.iter_mut().for_each(|open| {
            open.insert(self.newest);
        });
    }

    fn send(&mut self, channel: Channel, to_egress: bool, frame: &Frame<'_>) {
        if !self.open[usize::from(!to_egress)].contains(&channel) {
            return;
        }
        let direction = self.directions.entry((channel, to_egress)).or_default();
        let counter = direction.next;
        direction.next += 1;
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).expect("it is small");
        if self.flying.len() == MAX_FLYING {
            self.flying.remove(0);
        }
        self.flying.push(Packet { channel, to_egress, counter, bytes });
    }

    /// A new datagram of a flow.
    fn datagram(&mut self, flow: FlowId) -> [u8; 8] {
        self.next_datagram += 1;
        self.sent.insert(self.next_datagram, (flow, false));
        self.next_datagram.to_be_bytes()
    }

    /// A datagram has come out at a flow's client or origin.
    fn came_out(&mut self, flow: FlowId, bytes: &[u8]) {
        let number = u64::from_be_bytes(bytes.try_into().expect("eight bytes were sent"));
        let (of, came_out) = self.sent.get_mut(&number).expect("somebody has sent it");
        assert_eq!(*of, flow, "a datagram at another flow");
        assert!(!std::mem::replace(came_out, true), "a datagram twice");
    }

    /// The client of a place at the ingress says something; its session begins if there is none.
    fn client(&mut self, number: u32) {
        if !self.asking.contains_key(&number) {
            self.next_flow += 1;
            let flow = FlowId(self.next_flow);
            self.asking.insert(number, Asking { flow, asked: Asked::new() });
            self.asks.begin(flow, number);
        }
        let flow = self.asking[&number].flow;
        let bytes = self.datagram(flow);
        let datagram = Datagram::unmarked(&bytes);
        if let Some((channel, session)) = self.asking[&number].asked.bound() {
            return self.send(channel, true, &Frame::Data { session, datagram });
        }
        let channel = self.newest;
        let client = "192.0.2.1:1".parse().expect("an address");
        let open = Open {
            protocol: Protocol::Udp,
            flow,
            app: "a",
            origin: "o",
            client,
            listener: client,
            deadline_ms: 1,
        };
        self.send(channel, true, &Frame::OpenData { open, datagram });
        self.asking.get_mut(&number).expect("it was made").asked.on_asked(channel);
    }

    /// The origin of the `which`th session at the egress says something.
    fn origin(&mut self, which: usize) {
        let Some(number) = self.granting.keys().copied().nth(which % MAX_GRANTED) else { return };
        let Granting { flow, granted } = self.granting[&number];
        let Some((channel, session)) = granted.place() else { return };
        let bytes = self.datagram(flow);
        let datagram = Datagram::unmarked(&bytes);
        let frame = if granted.is_used() {
            Frame::Data { session, datagram }
        } else {
            Frame::Bound { flow, session, datagram: Some(datagram) }
        };
        self.send(channel, false, &frame);
    }

    fn end_asking(&mut self, number: u32) {
        let Some(mut session) = self.asking.remove(&number) else { return };
        let place = self.asks.end(session.flow, &mut session.asked);
        self.meant[0].retain(|_, of| *of != number);
        if let Some((channel, session)) = place {
            self.send(channel, true, &Frame::Close { session, reason: Reason::Idle });
        }
    }

    fn end_granting(&mut self, number: u32, is_told: bool) {
        let Some(mut session) = self.granting.remove(&number) else { return };
        let place = self.grants.end(&mut session.granted);
        self.meant[1].retain(|_, of| *of != number);
        if let Some((channel, session)) = place.filter(|_| is_told) {
            self.send(channel, false, &Frame::Close { session, reason: Reason::Idle });
        }
    }

    fn lose_channel(&mut self, channel: Channel, at_egress: bool) {
        if !self.open[usize::from(at_egress)].remove(&channel) {
            return;
        }
        self.meant[usize::from(at_egress)].retain(|place, _| place.0 != channel);
        if at_egress {
            self.grants.on_channel_gone(channel);
            self.granting.values_mut().for_each(|session| session.granted.on_channel_gone(channel));
        } else {
            self.asks.on_channel_gone(channel);
            for session in self.asking.values_mut() {
                session.asked.on_channel_gone(channel);
            }
        }
        if self.open[0].is_disjoint(&self.open[1]) || channel == self.newest {
            self.new_channel();
        }
    }

    fn deliver(&mut self, packet: &Packet) {
        if !self.open[usize::from(packet.to_egress)].contains(&packet.channel) {
            return;
        }
        let window = &mut self.directions.entry((packet.channel, packet.to_egress)).or_default().window;
        if window.check(packet.counter).is_err() {
            return;
        }
        window.mark(packet.counter);
        for frame in frames(&packet.bytes) {
            let frame = frame.expect("it was written here");
            if packet.to_egress {
                self.at_egress(packet.channel, frame);
            } else {
                self.at_ingress(packet.channel, frame);
            }
        }
    }

    fn at_egress(&mut self, channel: Channel, frame: Frame<'_>) {
        match frame {
            Frame::OpenData { open, datagram } => {
                let flow = open.flow;
                let known = self.granting.iter().find(|(_, session)| session.flow == flow);
                let number = match known.map(|(&number, _)| number) {
                    Some(number) => number,
                    None if self.granting.len() == MAX_GRANTED => {
                        return self.send(
                            channel,
                            false,
                            &Frame::Refused { flow, reason: Reason::LimitReached },
                        );
                    }
                    None => {
                        self.next_number += 1;
                        self.granting.insert(self.next_number, Granting { flow, granted: Granted::new() });
                        self.next_number
                    }
                };
                let state = self.granting.get_mut(&number).expect("it is there");
                let session = self.grants.bind(number, &mut state.granted, channel);
                self.meant[1].retain(|place, of| *of != number || place.0 == channel);
                let before = self.meant[1].insert((channel, session), number);
                assert!(before.is_none_or(|before| before == number), "one number for two sessions");
                self.given.insert((channel, session));
                self.send(channel, false, &Frame::Bound { flow, session, datagram: None });
                self.came_out(flow, datagram.bytes);
            }
            Frame::Data { session, datagram } => match self.grants.find((channel, session)) {
                Some(number) => {
                    let state = self.granting.get_mut(&number).expect("a number of a session that is over");
                    state.granted.on_data();
                    let flow = state.flow;
                    self.came_out(flow, datagram.bytes);
                }
                None => self.send(channel, false, &Frame::SessionUnknown { session }),
            },
            Frame::Close { session, .. } | Frame::SessionUnknown { session } => {
                if let Some(number) = self.grants.find((channel, session)) {
                    self.end_granting(number, false);
                }
            }
            other @ (Frame::Bound { .. }
            | Frame::Refused { .. }
            | Frame::Quic { .. }
            | Frame::Repair(_)
            | Frame::Fragment(_)) => {
                panic!("{other:?} to the egress")
            }
        }
    }

    fn at_ingress(&mut self, channel: Channel, frame: Frame<'_>) {
        match frame {
            Frame::Bound { flow, session, datagram } => {
                let Some(number) = self.asks.of_flow(flow) else { return };
                let state = self.asking.get_mut(&number).expect("a flow of a session that is over");
                assert_eq!(state.flow, flow);
                if !self.asks.on_bound(number, &mut state.asked, (channel, session)) {
                    return;
                }
                self.meant[0].retain(|_, of| *of != number);
                self.meant[0].insert((channel, session), number);
                if let Some(datagram) = datagram {
                    self.came_out(flow, datagram.bytes);
                }
            }
            Frame::Data { session, datagram } => match self.asks.find((channel, session)) {
                Some(number) => {
                    let flow = self.asking.get(&number).expect("a number of a session that is over").flow;
                    self.came_out(flow, datagram.bytes);
                }
                None => self.send(channel, true, &Frame::SessionUnknown { session }),
            },
            Frame::Close { session, .. } | Frame::SessionUnknown { session } => {
                if let Some(number) = self.asks.take((channel, session)) {
                    self.asking.get_mut(&number).expect("it is there").asked.unbind();
                    self.meant[0].remove(&(channel, session));
                }
            }
            Frame::Refused { flow, .. } => {
                let Some(number) = self.asks.of_flow(flow) else { return };
                if self.asking[&number].asked.is_asked(channel) {
                    self.end_asking(number);
                }
            }
            other @ (Frame::OpenData { .. } | Frame::Quic { .. } | Frame::Repair(_) | Frame::Fragment(_)) => {
                panic!("{other:?} to the ingress")
            }
        }
    }

    fn step(&mut self, [what, flow, which]: [u8; 3]) {
        let (number, which) = (u32::from(flow % FLOWS), usize::from(which));
        match what % 16 {
            0..=3 => self.client(number),
            4 | 5 => self.origin(which),
            6 => self.end_asking(number),
            7 => {
                if let Some(&number) = self.granting.keys().nth(which % MAX_GRANTED) {
                    self.end_granting(number, true);
                }
            }
            8 => {
                let channel = self.newest.saturating_sub(which as u32 % 3);
                self.lose_channel(channel, flow & 1 == 1);
            }
            // Another connection for the same handle; the one before goes on for a while.
            9 => self.new_channel(),
            _ if self.flying.is_empty() => {}
            10 => drop(self.flying.remove(which % self.flying.len())),
            11 => {
                let again = self.flying[which % self.flying.len()].clone();
                self.deliver(&again);
            }
            12 => {
                let packet = self.flying.remove(which % self.flying.len());
                self.deliver(&packet);
            }
            _ => {
                let packet = self.flying.remove(0);
                self.deliver(&packet);
            }
        }
    }

    /// Every number means at both ends what the model says.
    fn check(&self) {
        assert!(self.granting.len() <= MAX_GRANTED && self.asking.len() <= usize::from(FLOWS));
        for &place in &self.given {
            assert_eq!(self.asks.find(place), self.meant[0].get(&place).copied(), "{place:?} at the ingress");
            assert_eq!(
                self.grants.find(place),
                self.meant[1].get(&place).copied(),
                "{place:?} at the egress"
            );
        }
        for (number, session) in &self.asking {
            assert_eq!(self.asks.of_flow(session.flow), Some(*number));
            let bound = self.meant[0].iter().find(|(_, of)| *of == number).map(|(place, _)| *place);
            assert_eq!(session.asked.bound(), bound);
        }
        for (number, session) in &self.granting {
            let place = self.meant[1].iter().find(|(_, of)| *of == number).map(|(place, _)| *place);
            assert_eq!(session.granted.place(), place);
        }
    }

    fn deliver_all(&mut self) {
        while !self.flying.is_empty() {
            let packet = self.flying.remove(0);
            self.deliver(&packet);
        }
    }

    /// The network behaves: a flow of each client gets through, whatever was before.
    fn recover(&mut self) {
        self.deliver_all();
        let old: Vec<_> = (0..self.newest).collect();
        for channel in old {
            self.lose_channel(channel, false);
            self.lose_channel(channel, true);
        }
        while let Some(&number) = self.granting.keys().next() {
            self.end_granting(number, true);
        }
        self.deliver_all();
        for number in 0..MAX_GRANTED as u32 {
            // The first may find that a number means nothing any more; the second opens, the third uses the number.
            for _ in 0..3 {
                self.client(number);
                self.deliver_all();
                self.check();
            }
            let last = self.sent[&self.next_datagram];
            assert!(last.1, "a datagram is lost on a network that loses none");
            assert!(self.asking[&number].asked.bound().is_some(), "the ingress does not know the number");
        }
        for which in 0..MAX_GRANTED {
            self.origin(which);
            self.deliver_all();
            assert!(self.sent[&self.next_datagram].1, "an answer is lost on a network that loses none");
        }
        assert!(self.granting.values().all(|session| session.granted.is_used()));
    }
}

/// One story.
pub(crate) fn run(bytes: &[u8]) {
    let mut world = World::new();
    for step in bytes.as_chunks::<3>().0.iter().take(MAX_STEPS) {
        world.step(*step);
        world.check();
    }
    world.recover();
}
