//! One TCP flow: its two ends, the bytes between them, and the relay that says what to do next.
//!
//! While the origin is being reached through another PoP, the client's early bytes are sent on at once and kept as well, so that
//! another attempt loses nothing.

mod carrying;
mod slowing;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use l4proxy_io::tcp;
use l4proxy_proto::coalescing::Coalescing;
use l4proxy_proto::relay::{Relay, Way};
use l4proxy_wire::ids::PopId;

use super::super::dial::{Attempt, Plan};
use super::super::ending::{Ending, Side};
use super::ends::{End, Moved, Scratch, receive, transmit};
use super::hello::Sniffer;
use super::pipes::Lent;
use super::racing::Racing;
use crate::admission::bandwidth::Throttle;
use crate::app::Permit;
use crate::counters::AppValue;
use crate::identity::stream::{self, ClientTls};
use crate::overlay::StreamKey;
use crate::records::{Carried, FlowMeta};
use crate::shared::TcpPlace;
use crate::turn::Turn;

/// Early bytes that are kept until the origin is reached.
const MAX_EARLY: usize = 64 * 1024;

/// Unsent bytes that the kernel takes for a socket that is fed from a tunnel. The rest waits in the stream's window, where it slows
/// the sender down; and it is enough for a round trip of 10 ms at 100 Mbit/s before we are asked again.
const NOT_SENT: u32 = 128 * 1024;

/// The age at which the origin's socket gets what finds a dead peer: most flows are over by then, and five system calls are dear for a
/// short one. A peer that is silent cannot be found dead any sooner than this anyway.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Where a flow is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The client's TLS session is being agreed on.
    Greeting {
        /// How the origin will be reached; None: it has been.
        plan: Option<Plan>,
        /// Until when it must be done.
        deadline: Instant,
    },
    /// The origin is being reached; until when the present attempt may take.
    Dialling {
        /// What else may be tried.
        plan: Plan,
        /// The present attempt's, or when its race goes on.
        deadline: Instant,
        /// The present attempt is one of several addresses side by side.
        race: Option<Box<Racing>>,
    },
    /// Bytes flow.
    Relaying,
}

/// Bytes of one direction that were read and not written.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// Written already.
    start: usize,
    pipe: Option<Lent>,
}

/// What became of a flow in its turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It waits for readiness.
    Wait,
    /// It could go on: the others first.
    Again,
    /// It is over.
    Ended(Ending),
}

/// One flow.
pub(crate) struct Flow {
    pub(crate) generation: u32,
    pub(crate) client: End,
    pub(crate) origin: End,
    pub(crate) phase: Phase,
    pub(crate) last_used: Instant,
    /// It stands in the queue of flows that could go on.
    pub(crate) is_queued: bool,
    /// Its timer counts the half-closed time.
    pub(crate) is_half_closed: bool,
    /// The client's socket tells when there is room, too.
    pub(crate) watches_for_room: bool,
    /// The origin's socket has what finds a dead peer.
    is_looked_after: bool,
    /// The side whose socket is broken: it needs no reset.
    pub(crate) broken: Option<Side>,
    /// Whether the flow is looked at by the clock.
    pub(crate) coalescing: Coalescing,
    /// Bytes that were moved since somebody asked.
    moved: usize,
    relay: Relay,
    held: [Held; 2],
    /// How fast it may go; None: as fast as it goes.
    throttle: Option<Box<Throttle>>,
    bytes: [u64; 2],
    /// Looks for a server name in what the client sends.
    sniffer: Sniffer,
    /// Bytes of the header that names the client, written before its own, that have not left.
    announced: usize,
    /// The side whose end was read first.
    first_ended: Option<Side>,
    /// Nobody needs to be told that the flow broke off.
    is_orderly: bool,
    pub(crate) meta: Box<FlowMeta>,
    _permit: Permit,
    _place: TcpPlace,
}

const fn source_of(way: Way) -> Side {
    match way {
        Way::ToOrigin => Side::Client,
        Way::ToClient => Side::Origin,
    }
}

const fn from(side: Side) -> Way {
    match side {
        Side::Client => Way::ToOrigin,
        Side::Origin => Way::ToClient,
    }
}

impl Flow {
    /// Whether it waits for `peer` to reach its origin, and has a better way now.
    pub(super) fn may_leave(&mut self, peer: PopId, turn: &Turn<'_>) -> bool {
        let Phase::Dialling { plan, .. } = &mut self.phase else { return false };
        let Some(Attempt::Through { handle, .. }) = plan.current() else { return false };
        turn.overlay.peer_of(handle) == Some(peer) && plan.put_off(|handle| turn.overlay.is_doubtful(handle))
    }

    /// Our address as the origin sees it, if we dialled it.
    pub(crate) fn source(&self) -> Option<SocketAddr> {
        self.origin.socket().and_then(|fd| tcp::local_address(fd).ok())
    }

    /// A flow that has one end. `may_splice` is settled when the other is there.
    pub(crate) fn new(
        now: Instant,
        generation: u32,
        client: End,
        plan: Plan,
        meta: Box<FlowMeta>,
        permit: Permit,
        place: TcpPlace,
    ) -> Self {
        let is_socket = client.socket().is_some();
        let sniffer = Sniffer::new(&client, &meta);
        let mut relay = Relay::new(client.is_plain_socket());
        // A socket says when it has something; asking before is in vain.
        relay.lane_mut(Way::ToClient).on_read_blocked();
        if is_socket {
            relay.lane_mut(Way::ToOrigin).on_read_blocked();
        }
        Self {
            generation,
            client,
            origin: End::Absent,
            phase: Phase::Dialling { plan, deadline: now, race: None },
            last_used: now,
            is_queued: false,
            is_half_closed: false,
            watches_for_room: false,
            is_looked_after: false,
            broken: None,
            coalescing: Coalescing::new(now),
            moved: 0,
            relay,
            held: Default::default(),
            throttle: Throttle::of(&meta, now),
            bytes: [0; 2],
            sniffer,
            announced: 0,
            first_ended: None,
            is_orderly: false,
            meta,
            _permit: permit,
            _place: place,
        }
    }

    /// The end on a side.
    pub(crate) const fn end(&self, side: Side) -> &End {
        match side {
            Side::Client => &self.client,
            Side::Origin => &self.origin,
        }
    }

    /// The other PoP's stream, if one of the ends is one.
    pub(crate) const fn stream(&self) -> Option<StreamKey> {
        match (&self.client, &self.origin) {
            (End::Stream(key), _) | (_, End::Stream(key)) => Some(*key),
            (End::Absent | End::Socket(_) | End::Tls(_), End::Absent | End::Socket(_) | End::Tls(_)) => None,
        }
    }

    pub(super) const fn end_mut(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Origin => &mut self.origin,
        }
    }

    /// On which side the other PoP is.
    pub(crate) const fn stream_side(&self) -> Side {
        if self.client.is_stream() { Side::Client } else { Side::Origin }
    }

    /// What it has carried.
    pub(crate) fn carried(&self) -> Carried {
        Carried {
            bytes_to_origin: self.bytes[Way::ToOrigin as usize],
            bytes_to_client: self.bytes[Way::ToClient as usize],
            ..Carried::default()
        }
    }

    /// The client's TLS session comes first; its socket tells all that a session needs.
    pub(crate) fn begin_greeting(&mut self, deadline: Instant) {
        self.watches_for_room = true;
        let phase = std::mem::replace(&mut self.phase, Phase::Relaying);
        self.phase = match phase {
            Phase::Dialling { plan, .. } => Phase::Greeting { plan: Some(plan), deadline },
            other @ (Phase::Greeting { .. } | Phase::Relaying) => other,
        };
    }

    /// Until when the present attempt may take.
    pub(crate) const fn set_dial_deadline(&mut self, until: Instant) {
        if let Phase::Dialling { deadline, .. } = &mut self.phase {
            *deadline = until;
        }
    }

    /// When the flow's timer fires, if nothing happens before.
    pub(crate) fn deadline(&self) -> Instant {
        match &self.phase {
            Phase::Greeting { deadline, .. } | Phase::Dialling { deadline, .. } => *deadline,
            Phase::Relaying => {
                let idle = self.last_used + self.patience();
                // A flow that waits for its rate is not idle.
                let first = self.throttle.as_ref().and_then(|throttle| throttle.deadline()).unwrap_or(idle);
                if self.is_looked_after { first } else { first.min(self.meta.started + LOOK_AFTER) }
            }
        }
    }

    /// Give the origin's socket what finds a dead peer, once the flow is old enough to need it, and spread the questions of both: the
    /// client's socket has what it needs from its listener, at the same second as all others.
    pub(crate) fn look_after(&mut self, now: Instant) {
        if !self.is_looked_after
            && matches!(self.phase, Phase::Relaying)
            && now >= self.meta.started + LOOK_AFTER
        {
            self.is_looked_after = true;
            if let Some(fd) = self.origin.socket() {
                // Refused by a socket that is broken, which says so by itself.
                drop(tcp::apply_relay_options(fd).and_then(|()| tcp::spread_keepalive(fd)));
            }
            if let Some(fd) = self.client.socket() {
                drop(tcp::spread_keepalive(fd));
            }
        }
    }

    /// Bytes that were moved since the last call.
    pub(crate) const fn take_moved(&mut self) -> usize {
        std::mem::replace(&mut self.moved, 0)
    }

    /// Bytes pass as they are, from socket to socket.
    pub(crate) const fn is_between_sockets(&self) -> bool {
        matches!(self.phase, Phase::Relaying) && self.relay.may_splice()
    }

    /// The client has no room for what is held, and its socket does not tell of room yet.
    pub(crate) const fn must_watch_for_room(&self) -> bool {
        !self.watches_for_room && !self.relay.lane(Way::ToClient).has_room()
    }

    fn patience(&self) -> Duration {
        let app = &self.meta.app;
        if self.relay.is_half_closed() { app.half_closed.min(app.idle_tcp) } else { app.idle_tcp }
    }

    /// What the timer means in [`Phase::Relaying`].
    pub(crate) const fn idle_ending(&self) -> Ending {
        if self.relay.is_half_closed() { Ending::HalfClosedIdle } else { Ending::Idle }
    }

    /// Whether one direction has ended and the timer does not know yet.
    pub(crate) const fn has_become_half_closed(&self) -> bool {
        self.relay.is_half_closed() && !self.is_half_closed
    }

    /// An end may have something to read.
    pub(crate) const fn on_readable(&mut self, side: Side, hung_up: bool) {
        self.relay.lane_mut(from(side)).on_source_ready(hung_up);
    }

    /// An end may take something.
    pub(crate) const fn on_writable(&mut self, side: Side) {
        self.relay.lane_mut(from(side).back()).on_sink_ready();
    }

    /// The origin is there: what was read early goes first.
    pub(crate) fn begin_relaying(
        &mut self,
        turn: &mut Turn<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Ending> {
        let now = turn.now;
        self.announce(turn, scratch)?;
        let may_splice = self.client.is_plain_socket() && self.origin.is_plain_socket();
        self.relay.set_may_splice(may_splice);
        if !may_splice {
            for end in [&self.client, &self.origin] {
                if let Some(fd) = end.socket() {
                    // A refusal costs memory, not correctness.
                    drop(tcp::set_not_sent_low_water(fd, NOT_SENT));
                }
            }
        }
        for side in [Side::Client, Side::Origin] {
            // What came with the last word of the handshake has been read from the socket already.
            if matches!(self.end(side), End::Tls(_)) {
                self.on_readable(side, false);
            }
        }
        let early = &mut self.held[Way::ToOrigin as usize];
        self.bytes[Way::ToOrigin as usize] += early.start as u64;
        turn.count_app(&self.meta.app, AppValue::TcpBytesToOrigin, early.start as u64);
        self.relay.hold(Way::ToOrigin, early.bytes.len() - early.start);
        if let Some(throttle) = &mut self.throttle {
            throttle.charge(Way::ToOrigin, early.bytes.len(), now);
        }
        if early.start == early.bytes.len() {
            scratch.held = scratch.held.saturating_sub(early.bytes.len());
            (early.bytes, early.start) = (Vec::new(), 0);
        }
        self.meta.connected = Some(now.saturating_duration_since(self.meta.started));
        self.phase = Phase::Relaying;
        self.last_used = now;
        Ok(())
    }

    /// Put before everything else what tells an origin of ours who the client is; what the client has sent already goes with it in
    /// one segment.
    fn announce(&mut self, turn: &mut Turn<'_>, scratch: &mut Scratch) -> Result<(), Ending> {
        if !self.origin.is_plain_socket() {
            return Ok(());
        }
        let Some(header) = stream::header(&self.meta, self.client_tls()) else { return Ok(()) };
        if let Outcome::Ended(ending) = self.pump_early(turn, scratch) {
            return Err(ending);
        }
        self.announced = header.len();
        scratch.held += header.len();
        self.held[Way::ToOrigin as usize].bytes.splice(..0, header);
        Ok(())
    }

    /// The attempt failed: the next one begins with the first early byte.
    pub(crate) fn rewind(&mut self) {
        self.held[Way::ToOrigin as usize].start = 0;
        self.origin = End::Absent;
    }

    /// Read early bytes and send them on, before the other PoP has answered.
    pub(crate) fn pump_early(&mut self, turn: &mut Turn<'_>, scratch: &mut Scratch) -> Outcome {
        let lane = self.relay.lane(Way::ToOrigin);
        let held = &mut self.held[Way::ToOrigin as usize];
        let room = if lane.has_ended() { 0 } else { MAX_EARLY.saturating_sub(held.bytes.len()) };
        if room > 0 {
            match receive(&mut self.client, Side::Client, room, scratch, turn) {
                Ok(Moved::Bytes { count, .. }) => {
                    let read = &scratch.buffer[..count];
                    self.sniffer.look(read, &mut self.meta);
                    held.bytes.extend_from_slice(read);
                    scratch.held += count;
                    self.last_used = turn.now;
                }
                Ok(Moved::Blocked) => {}
                Ok(Moved::End) => {
                    self.relay.lane_mut(Way::ToOrigin).on_read_end();
                    self.first_ended = Some(Side::Client);
                }
                Err(ending) => return Outcome::Ended(ending),
            }
        }
        let held = &mut self.held[Way::ToOrigin as usize];
        if held.start < held.bytes.len() && self.origin.is_stream() {
            match transmit(&mut self.origin, Side::Origin, &held.bytes[held.start..], turn) {
                Ok(count) => held.start += count,
                Err(ending) => return Outcome::Ended(ending),
            }
        }
        Outcome::Wait
    }

    /// What was agreed on with a client whose TLS ends here.
    pub(super) fn client_tls(&self) -> Option<ClientTls> {
        match &self.client {
            End::Tls(session) => session.agreed(),
            End::Absent | End::Socket(_) | End::Stream(_) => None,
        }
    }

    /// Tell both ends how it ended, as far as they do not know. The sockets are closed when the flow is dropped.
    pub(crate) fn close(&mut self, ending: Ending, turn: &mut Turn<'_>, scratch: &mut Scratch) {
        for held in &mut self.held {
            scratch.held = scratch.held.saturating_sub(held.bytes.len());
            if let Some(pipe) = held.pipe.take() {
                scratch.pipes.give_back(pipe);
            }
        }
        self.is_orderly = matches!(ending, Ending::Finished(_));
        if let Ending::Tls(side, _) = ending
            && let End::Tls(session) = self.end_mut(side)
        {
            session.say_why(&mut scratch.sealed);
            self.broken = Some(side);
        }
        if let (false, Some(key)) = (self.is_orderly, self.stream()) {
            match (&self.phase, ending) {
                (Phase::Dialling { .. }, Ending::NotDialled(failure)) if self.client.is_stream() => {
                    turn.overlay.refuse_stream(key, failure.wire_reason());
                }
                // For a stream that is gone already this does nothing.
                _ => turn.overlay.reset(key, ending.stream_code()),
            }
        }
    }
}

impl Drop for Flow {
    /// A flow that did not end well must not look as if it had, also when its worker panics.
    fn drop(&mut self) {
        if !self.is_orderly {
            for side in [Side::Client, Side::Origin] {
                if let (Some(fd), true) = (self.end(side).socket(), self.broken != Some(side)) {
                    // On a socket that is broken already there is nothing to be told.
                    drop(tcp::set_reset_on_close(fd));
                }
            }
        }
    }
}

const fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Origin,
        Side::Origin => Side::Client,
    }
}
