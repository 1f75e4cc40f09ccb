//! A fast flow over several streams. QUIC's library closes a connection in whose buffer for one stream more than 1,024 holes are torn,
//! so no stream may have more than [`STREAM_WINDOW`](crate::STREAM_WINDOW) under way; a flow that could have more goes on over further
//! streams, one way each, up to eight. The flow's own stream carries its beginning, and FIN once the peer has all of the rest.
//!
//! Nothing is put in order here beyond choosing where to read next: bytes wait in QUIC's buffers, and the windows of the streams bound
//! them. What a stripe has accepted and QUIC has not is at most one chunk.

use l4proxy_wire::codes::StreamCode;
use l4proxy_wire::stripe::{
    CHUNK_HEADER_LENGTH, ChunkHeader, MAX_STRIPES, STRIPE_LENGTH, decode_stripe, encode_stripe,
};
use noq_proto::{Connection as Quic, Dir, ReadError, StreamId, VarInt};

use crate::driver::{Tunnels, quic_code};
use crate::events::TunnelEvent;
use crate::stream::{StreamPhase, write};

/// Bytes in a chunk: the header is a thousandth of it, and many of them are under way in each stripe.
const CHUNK: usize = 16 << 10;

/// The stripes that a flow sends on.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    lanes: Vec<OutLane>,
    /// Whose turn it is, counted on and on.
    next: usize,
    /// The flow's end has been said.
    is_ended: bool,
    /// Stripes that the peer has whole.
    arrived: usize,
}

#[derive(Debug)]
struct OutLane {
    id: StreamId,
    /// The rest of a chunk, or of STRIPE.
    pending: Vec<u8>,
    is_finished: bool,
}

impl Outgoing {
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = StreamId> {
        self.lanes.iter().map(|lane| lane.id)
    }

    /// Whether the peer has everything.
    pub(crate) fn has_arrived(&self) -> bool {
        self.lanes.is_empty() || (self.is_ended && self.arrived == self.lanes.len())
    }

    /// One more stripe for the flow whose own stream is `flow`. `None`: there are enough, or QUIC allows no more.
    pub(crate) fn open(&mut self, quic: &mut Quic, flow: StreamId) -> Option<StreamId> {
        if self.lanes.len() >= MAX_STRIPES {
            return None;
        }
        let id = quic.streams().open(Dir::Uni)?;
        let pending = encode_stripe(VarInt::from(flow).into_inner()).to_vec();
        self.lanes.push(OutLane { id, pending, is_finished: false });
        Some(id)
    }

    /// Takes bytes that belong at `offset`, as many as there is room for.
    pub(crate) fn write(&mut self, quic: &mut Quic, offset: u64, data: &[u8]) -> usize {
        let mut written = 0;
        for chunk in data.chunks(CHUNK) {
            let place = self.next % self.lanes.len();
            // Strictly in turn: then what is read in order opens the windows of all of them alike.
            if !self.lanes[place].flush(quic) {
                break;
            }
            let header = ChunkHeader { offset: offset + written as u64, length: chunk.len() as u32 };
            let lane = &mut self.lanes[place];
            lane.pending.extend_from_slice(&header.encode());
            lane.pending.extend_from_slice(chunk);
            lane.flush(quic);
            self.next = place + 1;
            written += chunk.len();
        }
        written
    }

    /// Hands what waits to QUIC; `end`: where the flow ends, if it does.
    pub(crate) fn flush(&mut self, quic: &mut Quic, end: Option<u64>) {
        if let (Some(offset), Some(first)) = (end, self.lanes.first_mut())
            && !std::mem::replace(&mut self.is_ended, true)
        {
            first.pending.extend_from_slice(&ChunkHeader { offset, length: 0 }.encode());
        }
        for lane in &mut self.lanes {
            if lane.flush(quic) && self.is_ended && !std::mem::replace(&mut lane.is_finished, true) {
                // If it was stopped, that is told by an event.
                let _ = quic.send_stream(lane.id).finish();
            }
        }
    }

    /// The peer has all of a stripe.
    pub(crate) fn on_arrived(&mut self, id: StreamId) {
        self.arrived += usize::from(self.lanes.iter().any(|lane| lane.id == id));
    }

    /// The flow is over, well or not.
    pub(crate) fn abandon(&mut self, quic: &mut Quic, code: VarInt) {
        if !self.has_arrived() {
            for lane in &self.lanes {
                let _ = quic.send_stream(lane.id).reset(code);
            }
        }
    }
}

impl OutLane {
    /// Whether QUIC has taken all that waited.
    fn flush(&mut self, quic: &mut Quic) -> bool {
        let written = write(quic, self.id, &self.pending);
        self.pending.drain(..written);
        self.pending.is_empty()
    }
}

/// Why a flow cannot go on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Broken {
    /// The peer has reset a stripe.
    Reset(VarInt),
    /// What stands on a stripe makes no sense.
    Malformed,
}

/// The stripes that a flow's bytes come on.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    lanes: Vec<InLane>,
    /// Where the flow ends, once that was said.
    end: Option<u64>,
}

#[derive(Debug)]
struct InLane {
    id: StreamId,
    /// The header of the chunk to come, as far as it is there.
    header: Vec<u8>,
    /// Where the next byte of the current chunk belongs, and how many it has left.
    offset: u64,
    left: usize,
    is_over: bool,
}

impl Incoming {
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = StreamId> {
        self.lanes.iter().map(|lane| lane.id)
    }

    /// A stripe begins. False: there are too many.
    pub(crate) fn add(&mut self, id: StreamId) -> bool {
        let has_room = self.lanes.len() < MAX_STRIPES;
        if has_room {
            self.lanes.push(InLane { id, header: Vec::new(), offset: 0, left: 0, is_over: false });
        }
        has_room
    }

    /// Whether `received` bytes are all that the flow has.
    pub(crate) fn is_whole(&self, received: u64) -> bool {
        self.end == Some(received) && self.lanes.iter().all(|lane| lane.is_over)
    }

    /// Fills `buf` with the bytes from `offset` on, as far as stripes have them.
    ///
    /// # Errors
    /// The flow cannot go on.
    pub(crate) fn fill(&mut self, quic: &mut Quic, offset: u64, buf: &mut [u8]) -> Result<usize, Broken> {
        let mut filled = 0;
        'progress: loop {
            for lane in &mut self.lanes {
                if let Some(end) = lane.advance(quic)? {
                    self.end = Some(end);
                }
                if lane.left > 0 && lane.offset < offset + filled as u64 {
                    return Err(Broken::Malformed);
                }
                if lane.left > 0 && lane.offset == offset + filled as u64 && filled < buf.len() {
                    let count = lane.read(quic, &mut buf[filled..])?;
                    filled += count;
                    if count > 0 {
                        continue 'progress;
                    }
                }
            }
            return Ok(filled);
        }
    }

    /// The flow is over, well or not.
    pub(crate) fn abandon(&mut self, quic: &mut Quic, code: VarInt) {
        for lane in self.lanes.iter().filter(|lane| !lane.is_over) {
            let _ = quic.recv_stream(lane.id).stop(code);
        }
    }
}

impl InLane {
    /// Reads the header of the next chunk if the current one is read. `Some`: the flow ends there.
    fn advance(&mut self, quic: &mut Quic) -> Result<Option<u64>, Broken> {
        let mut end = None;
        while self.left == 0 && !self.is_over {
            let mut missing = [0; CHUNK_HEADER_LENGTH];
            let missing = &mut missing[self.header.len()..];
            let count = take(quic, self.id, missing, &mut self.is_over)?;
            self.header.extend_from_slice(&missing[..count]);
            let Some(header) = self.header.first_chunk() else {
                if self.is_over && !self.header.is_empty() {
                    return Err(Broken::Malformed);
                }
                break;
            };
            let chunk = ChunkHeader::decode(header);
            self.header.clear();
            if chunk.offset < self.offset {
                return Err(Broken::Malformed);
            }
            (self.offset, self.left) = (chunk.offset, chunk.length as usize);
            if self.left == 0 {
                end = Some(chunk.offset);
            }
        }
        Ok(end)
    }

    /// Reads bytes of the current chunk.
    fn read(&mut self, quic: &mut Quic, buf: &mut [u8]) -> Result<usize, Broken> {
        let room = buf.len().min(self.left);
        let count = take(quic, self.id, &mut buf[..room], &mut self.is_over)?;
        self.offset += count as u64;
        self.left -= count;
        if self.is_over && self.left > 0 { Err(Broken::Malformed) } else { Ok(count) }
    }
}

/// Fills `buf` from a stream, as far as it can; `is_over`: it has ended well.
fn take(quic: &mut Quic, id: StreamId, buf: &mut [u8], is_over: &mut bool) -> Result<usize, Broken> {
    let mut stream = quic.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else {
        return Err(Broken::Malformed);
    };
    let mut filled = 0;
    while filled < buf.len() {
        match chunks.next(buf.len() - filled) {
            Ok(Some(chunk)) => {
                buf[filled..filled + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
                filled += chunk.bytes.len();
            }
            Ok(None) => {
                *is_over = true;
                break;
            }
            Err(ReadError::Blocked) => break,
            Err(ReadError::Reset(code)) => return Err(Broken::Reset(code)),
        }
    }
    Ok(filled)
}

impl Tunnels {
    /// There is something to read on a stripe of the peer's.
    pub(crate) fn on_stripe_readable(&mut self, index: u16, id: StreamId) {
        let connection = &mut self.connections[usize::from(index)];
        if let Some(nobodys) = connection.nobodys.get_mut(&id) {
            match nobodys.read(&mut connection.quic, id) {
                Ok(None) => return,
                Ok(Some(flow)) => {
                    connection.nobodys.remove(&id);
                    self.bind_stripe(index, id, flow);
                }
                Err(broken) => {
                    connection.nobodys.remove(&id);
                    let _ = connection.quic.recv_stream(id).stop(quic_code(StreamCode::ProtocolError.code()));
                    self.counters.streams_malformed += u64::from(matches!(broken, Broken::Malformed));
                    return;
                }
            }
        }
        let Some(&place) = self.connections[usize::from(index)].stripes.get(&id) else { return };
        let stream = &mut self.streams[place as usize];
        if matches!(stream.phase, StreamPhase::Open) && !std::mem::replace(&mut stream.is_readable_told, true)
        {
            self.events.push_back(TunnelEvent::StreamReadable { stream: stream.key });
        }
    }

    /// A stripe says whose it is.
    fn bind_stripe(&mut self, index: u16, id: StreamId, flow: StreamId) {
        let connection = &mut self.connections[usize::from(index)];
        let place = connection.streams.get(&flow).copied();
        // A flow that is not there may have been reset meanwhile.
        if let Some(place) = place
            && self.streams[place as usize].incoming.add(id)
        {
            connection.stripes.insert(id, place);
            return;
        }
        let _ = connection.quic.recv_stream(id).stop(quic_code(StreamCode::TcpReset.code()));
        self.counters.streams_malformed += u64::from(place.is_some());
    }

    /// The peer has all of a stream of ours; if it is the last stripe of a flow, the flow's own stream can end.
    pub(crate) fn on_stripe_arrived(&mut self, index: u16, id: StreamId) {
        let Some(&place) = self.connections[usize::from(index)].stripes.get(&id) else { return };
        let stream = &mut self.streams[place as usize];
        stream.outgoing.on_arrived(id);
        stream.flush(&mut self.connections[usize::from(index)].quic);
        let key = stream.key;
        self.remove_if_done(key);
        self.touch(index);
    }
}

/// A stripe of which it is not known yet whose it is.
#[derive(Debug, Default)]
pub(crate) struct Nobodys {
    message: Vec<u8>,
}

impl Nobodys {
    /// Reads STRIPE; the id of the flow's own stream once it is there whole.
    ///
    /// # Errors
    /// It is none, or the stream ended or was reset before.
    pub(crate) fn read(&mut self, quic: &mut Quic, id: StreamId) -> Result<Option<StreamId>, Broken> {
        let mut missing = [0; STRIPE_LENGTH];
        let missing = &mut missing[self.message.len()..];
        let mut is_over = false;
        let count = take(quic, id, missing, &mut is_over)?;
        self.message.extend_from_slice(&missing[..count]);
        match self.message.first_chunk() {
            Some(message) => {
                let number = decode_stripe(message).ok_or(Broken::Malformed)?;
                let flow = VarInt::from_u64(number).map_err(|_| Broken::Malformed)?;
                Ok(Some(StreamId::from(flow)))
            }
            None if is_over => Err(Broken::Malformed),
            None => Ok(None),
        }
    }
}
