//! How much of a flow may be on its way: sent here and not read by whoever reads it at the other end. QUIC's windows alone would let one
//! slow reader after the other fill what all flows of a connection share, until none of them goes on.
//!
//! The reading end says how far it has read (`CREDIT`), and how large a window all flows of the connection have together. The sending end
//! gives each flow as much as is free in that window, so that one flow alone has half of it, two have a third each, and there is always room for
//! another (dynamic thresholds: Choudhury and Hahne, 1998). The first [`FREE`] bytes of a flow are always allowed and not counted.
//! A window grows while it is used up quickly, as far as the worker's memory allows (`memory`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use l4proxy_wire::stream::{Credit, Role};
use noq_proto::{Connection as Quic, PathId, StreamId, VarInt};

use crate::connection::Phase;
use crate::driver::Tunnels;
use crate::memory::Memory;
use crate::stream::Stream;

/// What every flow may have on its way, whatever others have.
pub(crate) const FREE: u64 = 32 << 10;

/// What a flow may have on its way of which nothing has been read, or what its path holds if that is more: a connection that
/// has just begun sends no more than this in its first round trips, and one that knows its path loses none by waiting for the first
/// `CREDIT`. It is twice as much as was read more when it is. So a reader that never begins holds little, and one that goes on never waits.
const TRUST: u64 = 512 << 10;

/// The reading end tells each time when it has read so much more of a flow. Less than [`FREE`]: a flow that waits hears of it.
const STEP: u64 = 16 << 10;

/// What a peer that has said nothing yet has room for: the first packets of a connection are sent before it has.
const UNTOLD_WINDOW: u64 = 256 << 10;

/// The window of a connection that nobody knows anything of, if memory allows: half of it is 370 Mbit/s over 180 ms.
const FIRST_WINDOW: u64 = 16 << 20;

/// A window is doubled when it was read through within this time.
const GROWTH: Duration = Duration::from_secs(2);

/// Control messages that may wait before no further ones are added; what they would have said is said by the next.
const MAX_WAITING: usize = 64 << 10;

/// Flows for which there is room beside the window, at the least, each with [`FREE`] bytes.
const LEAST_FLOWS: u64 = 64;

/// What QUIC may hand us unread: the window, and what flows may always have; and a quarter more, because QUIC says only after an eighth that
/// something was read.
pub(crate) fn quic_window(window: u64, flows: usize) -> u32 {
    let flows = (flows as u64).next_power_of_two().max(LEAST_FLOWS);
    u32::try_from((window + flows * FREE) / 4 * 5).unwrap_or(u32::MAX)
}

/// What the path holds, in bytes: half of what the congestion control lets a connection have on its way.
pub(crate) fn path_window(quic: &Quic) -> u64 {
    quic.congestion_state(PathId::ZERO).map_or(0, |state| state.window() / 2)
}

/// What one connection's flows have on their way to the peer.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    /// What the peer allows; `None`: it has not said so yet.
    window: Option<u64>,
    counted: u64,
    /// Flows that have ended here and are not read to their end there: bytes sent, bytes read.
    departed: BTreeMap<StreamId, (u64, u64)>,
}

/// What the peer's flows may have on their way to us.
#[derive(Debug)]
pub(crate) struct Receiving {
    /// What was granted.
    window: u64,
    /// Flows that QUIC's own window has room for.
    flows: usize,
    /// Bytes read of all flows, ever.
    read: u64,
    /// When the window was judged last, and what had been read.
    judged: Option<(Instant, u64)>,
    /// So much of an old window comes back when so much has been read.
    shrinking: Option<(u64, u64)>,
}

impl Receiving {
    pub(crate) const fn new(window: u64) -> Self {
        Self { window, flows: LEAST_FLOWS as usize, read: 0, judged: None, shrinking: None }
    }

    /// Everything that is granted.
    pub(crate) fn granted(&self) -> u64 {
        self.window + self.shrinking.map_or(0, |(bytes, _)| bytes)
    }
}

/// What counts of a flow that has sent and of which the peer has read so many bytes.
const fn counted(sent: u64, read: u64) -> u64 {
    sent.saturating_sub(read).saturating_sub(FREE)
}

impl Sending {
    /// How many bytes more a flow may send; `path_window`: what its path holds, see [`path_window`].
    pub(crate) fn room(&self, stream: &Stream, memory: &Memory, path_window: u64) -> u64 {
        let own = self.window.unwrap_or(UNTOLD_WINDOW).saturating_sub(self.counted);
        let trusted = TRUST.max(path_window) + stream.credited.saturating_mul(2);
        (FREE + own.min(memory.free_to_send()).min(trusted)).saturating_sub(stream.sent - stream.credited)
    }

    /// Memory of the worker is what binds, and not the peer's window.
    pub(crate) fn is_bound_by_memory(&self, memory: &Memory) -> bool {
        memory.free_to_send() < self.window.unwrap_or(UNTOLD_WINDOW).saturating_sub(self.counted)
    }

    /// A flow's bytes on their way have changed from (sent, read) to (sent, read).
    fn change(&mut self, memory: &mut Memory, before: (u64, u64), after: (u64, u64)) {
        let (before, after) = (counted(before.0, before.1), counted(after.0, after.1));
        self.counted = self.counted + after - before;
        memory.change_sending(before, after);
    }

    /// A flow has sent bytes: `before` is what it had sent before.
    pub(crate) fn on_sent(&mut self, memory: &mut Memory, stream: &Stream, before: u64) {
        self.change(memory, (before, stream.credited), (stream.sent, stream.credited));
    }

    /// A flow has ended here; `is_delivered`: the peer goes on reading what it was sent.
    pub(crate) fn on_gone(&mut self, memory: &mut Memory, stream: &Stream, is_delivered: bool) {
        match stream.id.filter(|_| is_delivered && counted(stream.sent, stream.credited) > 0) {
            Some(id) => {
                self.departed.insert(id, (stream.sent, stream.credited));
            }
            None => self.change(memory, (stream.sent, stream.credited), (0, 0)),
        }
    }

    /// The connection has ended.
    pub(crate) fn end(&mut self, memory: &mut Memory) {
        memory.change_sending(self.counted, 0);
        *self = Self::default();
    }
}

impl Tunnels {
    /// The peer has read of a flow, or its window has another size.
    pub(crate) fn on_credit(&mut self, now: Instant, index: u16, credit: Credit) {
        let connection = &mut self.connections[usize::from(index)];
        connection.sending.window = Some(credit.window);
        let Ok(id) = VarInt::from_u64(credit.stream) else {
            return self.protocol_error(now, index, "CREDIT names no stream");
        };
        let id = StreamId::from(id);
        if let Some(&(sent, read)) = connection.sending.departed.get(&id) {
            let after = credit.read.clamp(read, sent);
            connection.sending.change(&mut self.memory, (sent, read), (sent, after));
            if counted(sent, after) == 0 {
                connection.sending.departed.remove(&id);
            } else {
                connection.sending.departed.insert(id, (sent, after));
            }
            return;
        }
        let Some(&place) = connection.streams.get(&id) else { return };
        let stream = &mut self.streams[place as usize];
        let read = if credit.read == Credit::ENDED { stream.sent } else { credit.read };
        if read > stream.sent || read < stream.credited {
            return self.protocol_error(now, index, "CREDIT does not fit what was sent");
        }
        connection.sending.change(&mut self.memory, (stream.sent, stream.credited), (stream.sent, read));
        stream.credited = read;
        let key = stream.key;
        if stream.waits_for_credit
            && connection.sending.room(stream, &self.memory, path_window(&connection.quic)) > 0
        {
            stream.waits_for_credit = false;
            self.wait_for_turn_of(key);
        }
    }

    /// The caller has read bytes of a flow.
    pub(crate) fn on_read(&mut self, index: u16, place: u32, bytes: usize) {
        let connection = &mut self.connections[usize::from(index)];
        connection.receiving.read += bytes as u64;
        let stream = &mut self.streams[place as usize];
        if let Some(id) = stream.id.filter(|_| stream.received - stream.told >= STEP)
            && connection.control.waiting_bytes() < MAX_WAITING
        {
            stream.told = stream.received;
            let credit = (u64::from(VarInt::from(id)), stream.told);
            self.tell_credit(index, credit);
        }
    }

    /// A flow is over here. The peer may still count what it sent on it, unless that was little and all of it was read.
    pub(crate) fn on_flow_over(&mut self, index: u16, stream: &Stream) {
        if let Some(id) = stream.id.filter(|_| stream.received >= STEP || !stream.is_read_to_end) {
            self.tell_credit(index, (u64::from(VarInt::from(id)), Credit::ENDED));
        }
    }

    fn tell_credit(&mut self, index: u16, (stream, read): (u64, u64)) {
        let connection = &mut self.connections[usize::from(index)];
        if connection.phase == Phase::Ready {
            let window = connection.receiving.window;
            connection.control.send_credit(&Credit { stream, read, window });
            connection.control.flush(&mut connection.quic);
        }
    }

    /// A connection for flows is ready: it gets more than the least.
    pub(crate) fn begin_window(&mut self, index: u16) {
        let connection = &self.connections[usize::from(index)];
        if connection.role == Some(Role::Flows) {
            let most = FIRST_WINDOW.min(u64::from(self.options.receive_window_bytes));
            self.widen(index, most.saturating_sub(connection.receiving.window));
        }
    }

    /// A flow has come: QUIC's window has room for what it may always have.
    pub(crate) fn make_room_for_flows(&mut self, index: u16) {
        let connection = &mut self.connections[usize::from(index)];
        let flows = connection.streams.len();
        if flows > connection.receiving.flows {
            connection.receiving.flows = flows.next_power_of_two();
            let window = quic_window(connection.receiving.window, connection.receiving.flows);
            connection.quic.set_receive_window(VarInt::from_u32(window));
        }
    }

    /// A window that is read through quickly is doubled. Where there is no memory for that, somebody else's shrinks who has more than his share.
    pub(crate) fn judge_window(&mut self, now: Instant, index: u16) {
        let receiving = &mut self.connections[usize::from(index)].receiving;
        if let Some((bytes, until)) = receiving.shrinking
            && receiving.read >= until
        {
            receiving.shrinking = None;
            self.memory.give_back(bytes);
        }
        let (since, from) = *receiving.judged.get_or_insert((now, receiving.read));
        let is_read_through = receiving.read - from >= receiving.window;
        if !is_read_through && now - since <= GROWTH {
            return;
        }
        receiving.judged = Some((now, receiving.read));
        let most = u64::from(self.options.receive_window_bytes);
        let wanted = receiving.window.min(most.saturating_sub(receiving.window));
        if is_read_through && now - since <= GROWTH && wanted > 0 && receiving.shrinking.is_none() {
            self.widen(index, wanted);
        }
    }

    fn widen(&mut self, index: u16, wanted: u64) {
        let got = self.memory.grant(wanted);
        if got < wanted {
            self.counters.windows_short += 1;
            self.narrow_largest(index);
        }
        let connection = &mut self.connections[usize::from(index)];
        connection.receiving.window += got;
        let window = quic_window(connection.receiving.window, connection.receiving.flows);
        connection.quic.set_receive_window(VarInt::from_u32(window));
        self.tell_credit(index, (0, 0));
    }

    /// Halves the largest window, if it is more than a fair share: it is free when what may be on its way has been read.
    fn narrow_largest(&mut self, but: u16) {
        let fair = self.memory.fair_share(self.connections.len()).max(self.memory.least());
        let largest = self
            .connections
            .iter_mut()
            .map(|(_, connection)| connection)
            .filter(|connection| connection.key.index != but && connection.receiving.shrinking.is_none())
            .max_by_key(|connection| connection.receiving.window);
        let Some(connection) = largest.filter(|connection| connection.receiving.window > fair) else {
            return;
        };
        let receiving = &mut connection.receiving;
        let less = receiving.window - (receiving.window / 2).max(fair);
        receiving.shrinking = Some((less, receiving.read + receiving.window));
        receiving.window -= less;
        let window = quic_window(receiving.window, receiving.flows);
        connection.quic.set_receive_window(VarInt::from_u32(window));
        let index = connection.key.index;
        self.tell_credit(index, (0, 0));
        self.touch(index);
    }
}
