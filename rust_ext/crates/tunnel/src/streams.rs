//! The calls for TCP flows: streams that begin with `OPEN` and its answer, then carry bytes both ways.
//!
//! A stream may be opened and written to while its connection is still in its handshake; what it is given waits in
//! `pending`, up to a bound. Nothing that was received is kept here but what shared a packet with `OPEN`: it stays in
//! QUIC's buffers, and the peer's window closes, until the caller reads.

use std::time::Instant;

use l4proxy_wire::codes::{Reason, StreamCode};
use l4proxy_wire::open::Open;
use l4proxy_wire::stream::{Answer, AnswerDecoder, OpenDecoder, Role, encode_answer, encode_open};
use noq_proto::{Dir, StreamId, VarInt};

use crate::connection::{Connection, Phase};
use crate::credit::path_window;
use crate::driver::{Tunnels, quic_code};
use crate::error::{DropReason, SendError};
use crate::events::{ConnectionKey, Loss, StreamRead, StreamWrite, TunnelEvent, TunnelStream};
use crate::options::STREAM_WINDOW;
use crate::stream::{End, Message, Stream, StreamPhase, abandon, read_message, stream_code, write};
use crate::turns::QUANTUM;

/// Streams of one connection that may wait for QUIC to open them, beyond what the peer allows.
const MAX_WAITING_STREAMS: usize = 1024;

impl Tunnels {
    /// Opens a flow on a connection. `OPEN` and up to [`max_early_bytes`](crate::TunnelOptions::max_early_bytes) of the
    /// flow wait as long as the handshake takes.
    ///
    /// # Errors
    /// The connection has ended, is a pair connection, or too many streams wait already.
    pub fn open_stream(&mut self, key: ConnectionKey, open: &Open<'_>) -> Result<TunnelStream, SendError> {
        let index = self.find(key).ok_or(SendError::Gone)?;
        let connection = &mut self.connections[usize::from(index)];
        if connection.role != Some(Role::Flows) {
            return Err(SendError::WrongRole);
        }
        if connection.waiting_streams.len() >= MAX_WAITING_STREAMS {
            self.counters.drop(DropReason::StreamsFull);
            return Err(SendError::Full);
        }
        let mut message = Vec::new();
        encode_open(open, &mut message).map_err(|_| SendError::TooLarge)?;
        let stream = self.insert_stream(key, None, StreamPhase::AwaitingAnswer(AnswerDecoder::new()));
        self.streams[stream.index as usize].pending = message;
        self.connections[usize::from(index)].waiting_streams.push_back(stream.index);
        self.open_waiting_streams(index);
        Ok(stream)
    }

    fn insert_stream(
        &mut self,
        connection: ConnectionKey,
        id: Option<StreamId>,
        phase: StreamPhase,
    ) -> TunnelStream {
        let entry = self.streams.vacant_entry();
        self.next_stream_generation = self.next_stream_generation.wrapping_add(1);
        let index = u32::try_from(entry.key()).expect("connections × streams stay below 2³²");
        let stream = TunnelStream { connection, index, generation: self.next_stream_generation };
        entry.insert(Stream::new(stream, id, phase));
        stream
    }

    /// Opens at QUIC what waits for it, as far as the peer allows.
    pub(crate) fn open_waiting_streams(&mut self, index: u16) {
        let mut connection = &mut self.connections[usize::from(index)];
        if connection.phase == Phase::Handshaking {
            return;
        }
        while let Some(place) = connection.waiting_streams.front().copied() {
            let Some(id) = connection.quic.streams().open(Dir::Bi) else {
                break;
            };
            connection.waiting_streams.pop_front();
            connection.streams.insert(id, place);
            let stream = &mut self.streams[place as usize];
            stream.id = Some(id);
            stream.flush(&mut connection.quic);
            let stream = stream.key;
            self.wait_if_wanted(stream);
            // Reborrowed: the loop's own borrow ended with the call above.
            connection = &mut self.connections[usize::from(index)];
        }
        self.make_room_for_flows(index);
        self.touch(index);
    }

    /// The stream and its connection, if neither has ended.
    fn find_stream(&mut self, key: TunnelStream) -> Option<(&mut Stream, &mut Connection)> {
        let stream = self.streams.get_mut(key.index as usize).filter(|stream| stream.key == key)?;
        Some((stream, &mut self.connections[usize::from(key.connection.index)]))
    }

    /// Takes a flow that the peer opened: `OPEN_OK` goes out. `false`: the stream has ended meanwhile.
    pub fn accept(&mut self, key: TunnelStream) -> bool {
        let Some((stream, connection)) = self.find_stream(key) else {
            return false;
        };
        if !matches!(stream.phase, StreamPhase::Offered) {
            return false;
        }
        stream.phase = StreamPhase::Open;
        encode_answer(Answer::Ok, &mut stream.pending);
        stream.flush(&mut connection.quic);
        stream.is_readable_told = true;
        self.events.push_back(TunnelEvent::StreamReadable { stream: key });
        self.touch(key.connection.index);
        true
    }

    /// Turns down a flow that the peer opened: `OPEN_FAIL` goes out, the stream is gone.
    pub fn refuse(&mut self, key: TunnelStream, reason: Reason) {
        let Some((stream, connection)) = self.find_stream(key) else {
            return;
        };
        let Some(id) = stream.id.filter(|_| matches!(stream.phase, StreamPhase::Offered)) else {
            return;
        };
        let mut message = Vec::new();
        encode_answer(Answer::Fail(reason), &mut message);
        // Nothing was sent on this stream before, so only a connection without any room refuses these few bytes.
        if write(&mut connection.quic, id, &message) == message.len() {
            let _ = connection.quic.send_stream(id).finish();
        } else {
            let _ = connection.quic.send_stream(id).reset(quic_code(StreamCode::InternalError.code()));
        }
        let _ = connection.quic.recv_stream(id).stop(quic_code(StreamCode::TcpReset.code()));
        self.remove_stream(key);
        self.touch(key.connection.index);
    }

    /// Sends bytes of the flow, as many as there is room for.
    pub fn write(&mut self, key: TunnelStream, data: &[u8]) -> StreamWrite {
        let max_early_bytes = self.options.max_early_bytes;
        let Some(stream) = self.streams.get_mut(key.index as usize).filter(|stream| stream.key == key) else {
            return StreamWrite::Gone;
        };
        let connection = &mut self.connections[usize::from(key.connection.index)];
        if stream.is_finished || matches!(stream.phase, StreamPhase::Offered | StreamPhase::AwaitingOpen(_)) {
            return StreamWrite::Gone;
        }
        let (sent, wanted) = (stream.sent, data.len());
        let room = connection.sending.room(stream, &self.memory, path_window(&connection.quic));
        let data = &data[..usize::try_from(room).unwrap_or(usize::MAX).min(wanted)];
        let written = match stream.id {
            Some(id) if stream.pending.is_empty() => write_in_turn(stream, connection, id, data),
            Some(_) | None => {
                let room = max_early_bytes.saturating_sub(stream.pending.len());
                let count = data.len().min(room);
                stream.pending.extend_from_slice(&data[..count]);
                stream.sent += count as u64;
                stream.wants_write |= count < data.len();
                count
            }
        };
        connection.sending.on_sent(&mut self.memory, stream, sent);
        let is_told_otherwise = stream.wants_write || stream.turn.is_some();
        if data.len() < wanted && written == data.len() && !is_told_otherwise {
            self.counters.writes_short += u64::from(connection.sending.is_bound_by_memory(&self.memory));
            stream.waits_for_credit = true;
        }
        self.queue_turns(key.connection.index);
        self.touch(key.connection.index);
        if written == 0 && wanted > 0 { StreamWrite::Blocked } else { StreamWrite::Wrote(written) }
    }

    /// Ends our direction; what was written is delivered first.
    pub fn finish(&mut self, key: TunnelStream) {
        let Some((stream, connection)) = self.find_stream(key) else {
            return;
        };
        stream.is_finished = true;
        stream.flush(&mut connection.quic);
        self.remove_if_done(key);
        self.touch(key.connection.index);
    }

    /// Ends both directions at once; what was not delivered is lost. The stream is gone, there is no event.
    pub fn reset(&mut self, key: TunnelStream, code: StreamCode) {
        let Some((stream, connection)) = self.find_stream(key) else {
            return;
        };
        if let Some(id) = stream.id {
            abandon(&mut connection.quic, id, quic_code(code.code()));
        }
        self.remove_stream(key);
        self.touch(key.connection.index);
    }

    /// Reads bytes of the flow into `buf`.
    pub fn read(&mut self, key: TunnelStream, buf: &mut [u8]) -> StreamRead {
        let Some((stream, connection)) = self.find_stream(key) else {
            return StreamRead::Gone;
        };
        let Some(id) = stream.id.filter(|_| matches!(stream.phase, StreamPhase::Open)) else {
            return StreamRead::Blocked;
        };
        if buf.is_empty() {
            return StreamRead::Data(0);
        }
        let place = key.index;
        let Ok(filled) = stream.fill(&mut connection.quic, id, buf) else {
            self.counters.streams_malformed += 1;
            self.reset(key, StreamCode::ProtocolError);
            return StreamRead::Reset(Some(StreamCode::ProtocolError));
        };
        let outcome = match stream.end {
            _ if filled > 0 => StreamRead::Data(filled),
            None => {
                stream.is_readable_told = false;
                StreamRead::Blocked
            }
            Some(End::Finished) => {
                stream.is_read_to_end = stream.is_fin_read;
                if !stream.is_read_to_end {
                    stream.is_readable_told = false;
                    stream.read_fin(&mut connection.quic, id);
                }
                self.remove_if_done(key);
                StreamRead::Finished
            }
            Some(End::Reset(code)) => {
                abandon(&mut connection.quic, id, code);
                self.remove_stream(key);
                StreamRead::Reset(stream_code(code))
            }
        };
        if matches!(outcome, StreamRead::Data(_)) {
            self.on_read(key.connection.index, place, filled);
        }
        // Reading opens the peer's window.
        self.touch(key.connection.index);
        outcome
    }

    /// Both directions have ended well: the stream is forgotten here, QUIC delivers what is left.
    pub(crate) fn remove_if_done(&mut self, key: TunnelStream) {
        if let Some((stream, _)) = self.find_stream(key)
            && stream.is_finish_sent
            && stream.is_read_to_end
        {
            self.forget_stream(key, true);
        }
    }

    fn remove_stream(&mut self, key: TunnelStream) {
        self.forget_stream(key, false);
    }

    fn forget_stream(&mut self, key: TunnelStream, is_delivered: bool) {
        let mut stream = self.streams.remove(key.index as usize);
        self.on_flow_over(key.connection.index, &stream);
        let connection = &mut self.connections[usize::from(key.connection.index)];
        connection.sending.on_gone(&mut self.memory, &stream, is_delivered);
        stream.abandon_stripes(&mut connection.quic, quic_code(StreamCode::TcpReset.code()));
        for id in stream.outgoing.ids().chain(stream.incoming.ids()) {
            connection.stripes.remove(&id);
        }
        connection.turns.end_turn(key.index);
        if let Some(position) = stream.turn {
            connection.turns.leave(key.index, position);
        }
        self.queue_turns(key.connection.index);
        let connection = &mut self.connections[usize::from(key.connection.index)];
        match stream.id {
            Some(id) => {
                connection.streams.remove(&id);
            }
            None => connection.waiting_streams.retain(|place| *place != key.index),
        }
    }

    /// The connection is over, and its tables are empty already.
    pub(crate) fn stream_lost_with_connection(&mut self, place: u32, loss: Loss) {
        let stream = self.streams.remove(place as usize);
        if !stream.is_unknown() {
            self.events.push_back(TunnelEvent::StreamGone {
                stream: stream.key,
                code: None,
                loss: Some(loss),
            });
        }
    }

    fn key_of(&self, index: u16, id: StreamId) -> Option<TunnelStream> {
        let connection = &self.connections[usize::from(index)];
        let place = connection.streams.get(&id).or_else(|| connection.stripes.get(&id))?;
        Some(self.streams[*place as usize].key)
    }

    /// The peer has opened a stream; the first bytes may be there already.
    pub(crate) fn on_stream_accepted(&mut self, index: u16, id: StreamId) {
        let connection = &mut self.connections[usize::from(index)];
        if connection.role != Some(Role::Flows) {
            abandon(&mut connection.quic, id, quic_code(StreamCode::ProtocolError.code()));
            self.counters.streams_malformed += 1;
            return;
        }
        let key = connection.key;
        let stream = self.insert_stream(key, Some(id), StreamPhase::AwaitingOpen(OpenDecoder::new()));
        self.connections[usize::from(index)].streams.insert(id, stream.index);
        self.make_room_for_flows(index);
        self.read_open(stream, id);
    }

    pub(crate) fn on_stream_readable(&mut self, index: u16, id: StreamId) {
        if id.dir() == Dir::Uni {
            return self.on_stripe_readable(index, id);
        }
        let Some(key) = self.key_of(index, id) else {
            return;
        };
        let Some((stream, connection)) = self.find_stream(key) else {
            return;
        };
        if let Ok(Some(code)) = connection.quic.recv_stream(id).received_reset() {
            self.reset_by_peer(key, id, code);
            return;
        }
        match stream.phase {
            StreamPhase::AwaitingAnswer(_) => self.read_answer(key, id),
            StreamPhase::AwaitingOpen(_) => self.read_open(key, id),
            StreamPhase::Offered => {}
            StreamPhase::Open if matches!(stream.end, Some(End::Finished)) => {
                stream.read_fin(&mut connection.quic, id);
                self.remove_if_done(key);
            }
            StreamPhase::Open => {
                if !std::mem::replace(&mut stream.is_readable_told, true) {
                    self.events.push_back(TunnelEvent::StreamReadable { stream: key });
                }
            }
        }
    }

    fn read_answer(&mut self, key: TunnelStream, id: StreamId) {
        let Some((stream, connection)) = self.find_stream(key) else {
            return;
        };
        let StreamPhase::AwaitingAnswer(decoder) = &mut stream.phase else {
            return;
        };
        let answer =
            read_message(&mut connection.quic, id, &mut stream.leftover, |input| decoder.decode(input));
        match (answer, stream.stopped) {
            (Message::NotYet, _) => {}
            (Message::Reset(code), _) | (Message::Whole(Answer::Ok), Some(code)) => {
                self.reset_by_peer(key, id, code);
            }
            (Message::Broken, _) => self.malformed(key, id),
            (Message::Whole(Answer::Ok), None) => {
                stream.phase = StreamPhase::Open;
                stream.is_readable_told = true;
                self.events.push_back(TunnelEvent::StreamOpened { stream: key });
                self.events.push_back(TunnelEvent::StreamReadable { stream: key });
            }
            (Message::Whole(Answer::Fail(reason)), _) => {
                abandon(&mut connection.quic, id, quic_code(StreamCode::TcpReset.code()));
                self.remove_stream(key);
                self.events.push_back(TunnelEvent::StreamRefused { stream: key, reason });
            }
        }
    }

    fn read_open(&mut self, key: TunnelStream, id: StreamId) {
        let Some((stream, connection)) = self.find_stream(key) else {
            return;
        };
        let peer = connection.peer;
        let StreamPhase::AwaitingOpen(decoder) = &mut stream.phase else {
            return;
        };
        let open =
            read_message(&mut connection.quic, id, &mut stream.leftover, |input| decoder.decode(input));
        match open {
            Message::NotYet => {}
            Message::Reset(code) => self.reset_by_peer(key, id, code),
            Message::Broken => self.malformed(key, id),
            Message::Whole(open) => {
                stream.phase = StreamPhase::Offered;
                self.events.push_back(TunnelEvent::StreamIncoming { stream: key, peer, open });
            }
        }
    }

    /// The peer sent something else where `OPEN` or its answer belongs.
    fn malformed(&mut self, key: TunnelStream, id: StreamId) {
        self.counters.streams_malformed += 1;
        let Some((stream, connection)) = self.find_stream(key) else {
            return;
        };
        let is_known = !stream.is_unknown();
        abandon(&mut connection.quic, id, quic_code(StreamCode::ProtocolError.code()));
        self.remove_stream(key);
        if is_known {
            let code = Some(StreamCode::ProtocolError);
            self.events.push_back(TunnelEvent::StreamGone { stream: key, code, loss: None });
        }
    }

    fn reset_by_peer(&mut self, key: TunnelStream, id: StreamId, code: VarInt) {
        let Some((stream, connection)) = self.find_stream(key) else {
            return;
        };
        let is_known = !stream.is_unknown();
        // Whichever of its streams it was.
        abandon(&mut connection.quic, stream.id.unwrap_or(id), code);
        self.remove_stream(key);
        if is_known {
            let code = stream_code(code);
            self.events.push_back(TunnelEvent::StreamGone { stream: key, code, loss: None });
        }
    }

    pub(crate) fn on_stream_writable(&mut self, index: u16, id: StreamId) {
        let Some(key) = self.key_of(index, id) else {
            return;
        };
        let Some((stream, connection)) = self.find_stream(key) else {
            return;
        };
        stream.flush(&mut connection.quic);
        connection.turns.is_full = false;
        self.wait_if_wanted(key);
        self.remove_if_done(key);
    }

    /// What held the caller's bytes up is over: now the stream waits for its turn, which often is at once.
    fn wait_if_wanted(&mut self, key: TunnelStream) {
        let Some((stream, connection)) = self.find_stream(key) else {
            return;
        };
        if stream.pending.is_empty() && std::mem::take(&mut stream.wants_write) {
            wait_for_turn(stream, connection);
        }
        self.queue_turns(key.connection.index);
    }

    /// The same for a stream that waited for something else.
    pub(crate) fn wait_for_turn_of(&mut self, key: TunnelStream) {
        if let Some((stream, connection)) = self.find_stream(key) {
            wait_for_turn(stream, connection);
            self.queue_turns(key.connection.index);
        }
    }

    /// There may be somebody in this connection who can be told to write.
    pub(crate) fn queue_turns(&mut self, index: u16) {
        let connection = &mut self.connections[usize::from(index)];
        if connection.turns.can_grant() && !std::mem::replace(&mut connection.is_turn_queued, true) {
            self.turn_queue.push_back(index);
        }
    }

    /// Tells one stream that it may write, when the caller has handled all other events. The next one is told when this
    /// one has written, or at the latest in the next turn of the caller's loop.
    pub(crate) fn grant_turn(&mut self) {
        while let Some(index) = self.turn_queue.pop_front() {
            let Some(connection) = self.connections.get_mut(usize::from(index)) else {
                continue;
            };
            connection.is_turn_queued = false;
            if let Some((place, position)) = connection.turns.grant() {
                let stream = &mut self.streams[place as usize];
                (stream.turn, stream.has_turn, stream.served) = (None, true, position);
                let stream = stream.key;
                self.events.push_back(TunnelEvent::StreamWritable { stream });
                self.turn_in = Some(index);
                return;
            }
        }
        self.turn_due = None;
    }

    /// The caller has nothing more to do now: whoever was told to write and did not lets the others go first.
    pub(crate) fn pass_turn(&mut self, now: Instant) {
        if let Some(index) = self.turn_in.take()
            && let Some(connection) = self.connections.get_mut(usize::from(index))
            && connection.turns.pass_turn()
        {
            self.queue_turns(index);
        }
        self.turn_due = (!self.turn_queue.is_empty()).then_some(now);
    }

    pub(crate) fn on_stream_stopped(&mut self, index: u16, id: StreamId, code: VarInt) {
        let Some(key) = self.key_of(index, id) else {
            return;
        };
        let Some((stream, _)) = self.find_stream(key) else {
            return;
        };
        if matches!(stream.phase, StreamPhase::AwaitingAnswer(_)) {
            stream.stopped = Some(code);
            stream.pending.clear();
            return;
        }
        self.reset_by_peer(key, id, code);
    }
}

/// Writes as much as is this stream's share and QUIC takes. If that is not all, the stream waits: for its next turn, or
/// for the peer to read.
fn write_in_turn(stream: &mut Stream, connection: &mut Connection, id: StreamId, data: &[u8]) -> usize {
    if stream.wants_write {
        // Nothing has changed since the last time.
        return 0;
    }
    let has_turn = std::mem::take(&mut stream.has_turn);
    connection.turns.end_turn(stream.key.index);
    if data.is_empty() {
        return 0;
    }
    if !has_turn && connection.turns.is_contended() {
        wait_for_turn(stream, connection);
        return 0;
    }
    let share = if has_turn { &data[..data.len().min(QUANTUM)] } else { data };
    let written = put(stream, connection, id, share);
    if has_turn {
        stream.served += written as u64;
    }
    if written == share.len() {
        if share.len() < data.len() {
            wait_for_turn(stream, connection);
        }
    } else if connection.control.finds_no_room(&mut connection.quic) {
        connection.turns.is_full = true;
        wait_for_turn(stream, connection);
    } else {
        stream.wants_write = true;
    }
    written
}

/// Writes as much as QUIC takes, over further streams once the flow's own holds it up.
fn put(stream: &mut Stream, connection: &mut Connection, id: StreamId, data: &[u8]) -> usize {
    let quic = &mut connection.quic;
    let mut written = match stream.outgoing.is_empty() {
        true => write(quic, id, data),
        false => stream.outgoing.write(quic, stream.sent, data),
    };
    // A stream that is held up though most of its window has arrived has a slow reader, and more streams would only fill its memory.
    // One that has not sent all that it took is held up by the path: what it still has would have to share the path with later bytes.
    let count = stream.outgoing.len();
    let is_held_up = written < data.len()
        && stream.sent >= u64::from(STREAM_WINDOW)
        && connection.resend.is_dry()
        && connection.resend.unacknowledged() >= count.max(1) * STREAM_WINDOW as usize / 2
        && !connection.control.finds_no_room(quic);
    if is_held_up {
        for _ in 0..count.max(2) {
            let Some(stripe) = stream.outgoing.open(quic, id) else { break };
            connection.stripes.insert(stripe, stream.key.index);
        }
        if count < stream.outgoing.len() {
            written += stream.outgoing.write(quic, stream.sent + written as u64, &data[written..]);
        }
    }
    stream.sent += written as u64;
    written
}

fn wait_for_turn(stream: &mut Stream, connection: &mut Connection) {
    if stream.turn.is_none() {
        stream.turn = Some(connection.turns.wait(stream.key.index, stream.served));
    }
}
