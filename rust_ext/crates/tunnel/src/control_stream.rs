//! The control stream of one connection: the messages that came, and the bounded queue of those to send.
//!
//! What the peer sends and is no message ends the connection; a byte is never skipped in search of the next one.

use std::collections::VecDeque;

use bytes::Bytes;
use l4proxy_wire::stream::{ControlDecoder, ControlHello, ControlMessage, Credit, encode_bus};
use noq_proto::{Connection, ReadError, StreamId, WriteError};

use crate::error::SendError;

/// One control stream. It exists before QUIC has opened it.
#[derive(Debug)]
pub(crate) struct ControlStream {
    pub(crate) id: Option<StreamId>,
    decoder: ControlDecoder,
    outgoing: VecDeque<Bytes>,
    outgoing_bytes: usize,
    max_outgoing_bytes: usize,
}

impl ControlStream {
    pub(crate) fn new(max_outgoing_bytes: usize) -> Self {
        Self {
            id: None,
            decoder: ControlDecoder::new(),
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            max_outgoing_bytes,
        }
    }

    /// Forgets everything; the connection is over.
    pub(crate) fn clear(&mut self) {
        *self = Self { id: self.id, ..Self::new(self.max_outgoing_bytes) };
    }

    /// Queues the first of all messages, for which there is always room.
    pub(crate) fn send_hello(&mut self, hello: &ControlHello) {
        let mut message = Vec::new();
        hello.encode(&mut message).expect("a policy is checked when the connection is made, or was decoded");
        self.push(message);
    }

    pub(crate) fn send_bus(&mut self, payload: &[u8]) -> Result<(), SendError> {
        let mut message = Vec::new();
        encode_bus(payload, &mut message).map_err(|_| SendError::TooLarge)?;
        if self.outgoing_bytes + message.len() > self.max_outgoing_bytes {
            return Err(SendError::Full);
        }
        self.push(message);
        Ok(())
    }

    /// The caller keeps to a bound of [`Self::waiting_bytes`].
    pub(crate) fn send_credit(&mut self, credit: &Credit) {
        let mut message = Vec::new();
        credit.encode(&mut message);
        self.push(message);
    }

    /// Bytes that QUIC has not taken yet.
    pub(crate) const fn waiting_bytes(&self) -> usize {
        self.outgoing_bytes
    }

    fn push(&mut self, message: Vec<u8>) {
        self.outgoing_bytes += message.len();
        self.outgoing.push_back(Bytes::from(message));
    }

    /// Hands to QUIC what it takes. The rest follows when the stream is writable again.
    pub(crate) fn flush(&mut self, quic: &mut Connection) {
        let Some(id) = self.id else {
            return;
        };
        while let Some(message) = self.outgoing.front_mut() {
            // An error is either no room, or a stream that has ended: then its connection ends too.
            let Ok(written) = quic.send_stream(id).write_chunks(&mut std::slice::from_mut(message)) else {
                return;
            };
            self.outgoing_bytes -= written;
            if message.is_empty() {
                self.outgoing.pop_front();
            }
        }
    }

    /// Whether QUIC has no room for any stream of the connection. It does not say so of itself, but it refuses to write
    /// even nothing then, and says later that this stream is writable again.
    pub(crate) fn finds_no_room(&self, quic: &mut Connection) -> bool {
        self.id.is_some_and(|id| matches!(quic.send_stream(id).write(&[]), Err(WriteError::Blocked)))
    }

    /// Adds the messages that have come whole to `messages`.
    ///
    /// # Errors
    /// What the peer did wrong. The messages before that are good.
    pub(crate) fn read(
        &mut self,
        quic: &mut Connection,
        messages: &mut Vec<ControlMessage>,
    ) -> Result<(), String> {
        const ENDED: &str = "the control stream ended";
        let Some(id) = self.id else {
            return Ok(());
        };
        let mut stream = quic.recv_stream(id);
        let mut chunks = stream.read(true).map_err(|_| ENDED)?;
        loop {
            let chunk = match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => chunk,
                Err(ReadError::Blocked) => return Ok(()),
                Ok(None) | Err(ReadError::Reset(_)) => return Err(ENDED.to_owned()),
            };
            let mut input: &[u8] = &chunk.bytes;
            while let Some(message) = self.decoder.decode(&mut input).map_err(|error| error.to_string())? {
                messages.push(message);
            }
        }
    }
}
