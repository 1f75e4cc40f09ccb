//! The state of one flow's stream, and what it does with QUIC: reading `OPEN` or its answer, reading and writing bytes,
//! ending. When that happens, and who is told, is in `streams`.

use l4proxy_wire::StreamError;
use l4proxy_wire::codes::StreamCode;
use l4proxy_wire::stream::{AnswerDecoder, OpenDecoder};
use noq_proto::{Connection as Quic, FinishError, ReadError, StreamId, VarInt, WriteError};

use crate::events::TunnelStream;
use crate::stripes::{Broken, Incoming, Outgoing};

/// Where a stream is in its life.
#[derive(Debug)]
pub(crate) enum StreamPhase {
    /// Ours: `OPEN` is sent or waits, the answer has not come whole.
    AwaitingAnswer(AnswerDecoder),
    /// The peer's: `OPEN` has not come whole.
    AwaitingOpen(OpenDecoder),
    /// The peer's: the caller has been told and has not answered.
    Offered,
    /// Bytes flow.
    Open,
}

/// One flow's stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) key: TunnelStream,
    /// QUIC's id, once QUIC has opened it.
    pub(crate) id: Option<StreamId>,
    pub(crate) phase: StreamPhase,
    /// The flow's first bytes, which came in one packet with `OPEN` or its answer.
    pub(crate) leftover: Vec<u8>,
    /// Bytes that QUIC has not taken yet; anything later goes behind them.
    pub(crate) pending: Vec<u8>,
    /// The caller has finished its direction; `is_finish_sent` when QUIC knows.
    pub(crate) is_finished: bool,
    pub(crate) is_finish_sent: bool,
    /// How the peer's direction ended, if QUIC has said so; the caller reads it after the last bytes.
    pub(crate) end: Option<End>,
    /// The caller has read the peer's FIN.
    pub(crate) is_read_to_end: bool,
    /// The caller waits for `StreamWritable`, which waits for the peer's window or for `pending`.
    pub(crate) wants_write: bool,
    /// The caller waits for `StreamWritable`, which waits for its turn: the position there.
    pub(crate) turn: Option<u64>,
    /// It is this stream's turn.
    pub(crate) has_turn: bool,
    /// Bytes it has had in turns.
    pub(crate) served: u64,
    /// The caller has been told `StreamReadable` and has not read until `Blocked` since.
    pub(crate) is_readable_told: bool,
    /// The peer stopped reading before it answered; its answer may still say why.
    pub(crate) stopped: Option<VarInt>,
    /// Bytes of the flow that were taken from the caller, and that it has read.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Bytes that the peer has read of it, and that it was told we have read, as far as it was said.
    pub(crate) credited: u64,
    pub(crate) told: u64,
    /// The caller waits for `StreamWritable`, which waits for the peer to read.
    pub(crate) waits_for_credit: bool,
    /// Further streams that a fast flow is on.
    pub(crate) outgoing: Outgoing,
    pub(crate) incoming: Incoming,
    /// FIN of the flow's own stream has been read.
    pub(crate) is_fin_read: bool,
}

impl Stream {
    pub(crate) fn new(key: TunnelStream, id: Option<StreamId>, phase: StreamPhase) -> Self {
        Self {
            key,
            id,
            phase,
            leftover: Vec::new(),
            pending: Vec::new(),
            is_finished: false,
            is_finish_sent: false,
            end: None,
            is_read_to_end: false,
            wants_write: false,
            turn: None,
            has_turn: false,
            served: 0,
            is_readable_told: false,
            stopped: None,
            sent: 0,
            received: 0,
            credited: 0,
            told: 0,
            waits_for_credit: false,
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            is_fin_read: false,
        }
    }

    /// The caller has not been told of it.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.phase, StreamPhase::AwaitingOpen(_))
    }

    /// Fills `buf` from what has come in order, and notes the end when it comes to it.
    ///
    /// # Errors
    /// What stands on a stripe makes no sense.
    pub(crate) fn fill(&mut self, quic: &mut Quic, id: StreamId, buf: &mut [u8]) -> Result<usize, Malformed> {
        let mut filled = self.leftover.len().min(buf.len());
        buf[..filled].copy_from_slice(&self.leftover[..filled]);
        self.leftover.drain(..filled);
        self.received += filled as u64;
        while filled < buf.len() && self.end.is_none() {
            let own = self.fill_from_own(quic, id, &mut buf[filled..]);
            self.received += own as u64;
            filled += own;
            let further = self.fill_from_stripes(quic, &mut buf[filled..])?;
            self.received += further as u64;
            filled += further;
            if own + further == 0 {
                break;
            }
        }
        Ok(filled)
    }

    fn fill_from_own(&mut self, quic: &mut Quic, id: StreamId, buf: &mut [u8]) -> usize {
        let mut filled = 0;
        if self.is_fin_read {
            return filled;
        }
        // QUIC forgets a stream once it has said how it ended.
        let mut stream = quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else {
            return filled;
        };
        while filled < buf.len() {
            match chunks.next(buf.len() - filled) {
                Ok(Some(chunk)) => {
                    buf[filled..filled + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
                    filled += chunk.bytes.len();
                }
                Ok(None) => {
                    self.is_fin_read = true;
                    if self.incoming.is_empty() {
                        self.end = Some(End::Finished);
                    }
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(code)) => {
                    self.end = Some(End::Reset(code));
                    break;
                }
            }
        }
        filled
    }

    fn fill_from_stripes(&mut self, quic: &mut Quic, buf: &mut [u8]) -> Result<usize, Malformed> {
        if self.incoming.is_empty() {
            return Ok(0);
        }
        match self.incoming.fill(quic, self.received, buf) {
            Ok(count) => {
                if self.incoming.is_whole(self.received + count as u64) {
                    self.end = Some(End::Finished);
                }
                Ok(count)
            }
            Err(Broken::Reset(code)) => {
                self.end = Some(End::Reset(code));
                Ok(0)
            }
            Err(Broken::Malformed) => Err(Malformed),
        }
    }

    /// The caller knows the end. What is left to read of the flow's own stream is its FIN, without which QUIC does not forget it.
    pub(crate) fn read_fin(&mut self, quic: &mut Quic, id: StreamId) {
        self.fill_from_own(quic, id, &mut [0]);
        self.is_read_to_end = self.is_fin_read;
    }

    /// Hands `pending` to QUIC, then the end if the caller has finished.
    pub(crate) fn flush(&mut self, quic: &mut Quic) {
        let Some(id) = self.id else {
            return;
        };
        let written = write(quic, id, &self.pending);
        self.pending.drain(..written);
        self.outgoing.flush(quic, self.is_finished.then_some(self.sent));
        if !self.pending.is_empty()
            || !self.is_finished
            || self.is_finish_sent
            || !self.outgoing.has_arrived()
        {
            return;
        }
        match quic.send_stream(id).finish() {
            Ok(()) | Err(FinishError::Stopped(_) | FinishError::ClosedStream) => self.is_finish_sent = true,
        }
    }

    /// The flow is over, well or not: its further streams end, too.
    pub(crate) fn abandon_stripes(&mut self, quic: &mut Quic, code: VarInt) {
        self.outgoing.abandon(quic, code);
        self.incoming.abandon(quic, code);
    }
}

/// What the peer sent makes no sense.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Malformed;

/// Writes as much as QUIC takes. What stopped it is told by an event of QUIC's later.
pub(crate) fn write(quic: &mut Quic, id: StreamId, data: &[u8]) -> usize {
    let mut written = 0;
    // Until QUIC refuses: only a refused write makes it tell us when there is room again.
    while written < data.len() {
        match quic.send_stream(id).write(&data[written..]) {
            Ok(count) => written += count,
            Err(WriteError::Blocked | WriteError::Stopped(_) | WriteError::ClosedStream) => break,
        }
    }
    written
}

/// How the peer's direction ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Finished,
    Reset(VarInt),
}

/// What reading `OPEN` or its answer came to.
pub(crate) enum Message<T> {
    Whole(T),
    NotYet,
    /// The stream ended before, or this is no such message.
    Broken,
    Reset(VarInt),
}

/// Feeds a decoder until its message is whole. What came in the same chunk behind it belongs to the flow: it is copied to
/// `leftover`.
pub(crate) fn read_message<T>(
    quic: &mut Quic,
    id: StreamId,
    leftover: &mut Vec<u8>,
    mut decode: impl FnMut(&mut &[u8]) -> Result<Option<T>, StreamError>,
) -> Message<T> {
    let mut stream = quic.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else {
        return Message::Broken;
    };
    loop {
        let chunk = match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Message::Broken,
            Err(ReadError::Blocked) => return Message::NotYet,
            Err(ReadError::Reset(code)) => return Message::Reset(code),
        };
        let mut input: &[u8] = &chunk.bytes;
        match decode(&mut input) {
            Ok(Some(message)) => {
                leftover.extend_from_slice(input);
                return Message::Whole(message);
            }
            Ok(None) => {}
            Err(_) => return Message::Broken,
        }
    }
}

pub(crate) fn stream_code(code: VarInt) -> Option<StreamCode> {
    StreamCode::try_from(u64::from(code)).ok()
}

/// Ends both directions at QUIC. Either may be over already, which is as good.
pub(crate) fn abandon(quic: &mut Quic, id: StreamId, code: VarInt) {
    let _ = quic.send_stream(id).reset(code);
    let _ = quic.recv_stream(id).stop(code);
}
