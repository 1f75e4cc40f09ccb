//! Messages on QUIC streams (section 4): HELLO, BUS and CREDIT on the control stream; OPEN and its answer at the beginning of a
//! flow's stream. The decoders take bytes as they come, keep at most one message, and leave what follows it untouched.

use crate::codes::Reason;
use crate::ids::ChannelId;
use crate::open::{MAX_OPEN_LENGTH, Open, OpenOwned};
use crate::reader::{Reader, check_length, put_short_text};
use crate::{EncodeError, Malformed, StreamError, VERSION};

/// The longest control message, in bytes: a link record of a large fleet is some 100 kB, and one message of each peer may be in memory.
pub const MAX_CONTROL_LENGTH: usize = 1 << 20;

/// The longest policy, in bytes: its length stands in one byte.
pub const MAX_POLICY_LENGTH: usize = u8::MAX as usize;

const CREDIT_BODY: usize = 24;

const MAX_HELLO_BODY: usize = 12 + MAX_POLICY_LENGTH;

const HELLO: u8 = 0x10;
const BUS: u8 = 0x11;
const CREDIT: u8 = 0x12;
const OPEN: u8 = 0x20;
const OPEN_OK: u8 = 0x21;
const OPEN_FAIL: u8 = 0x22;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The one connection of two PoPs that gives keys and carries the bus.
    Pair = 0,
    /// A connection of one route handle and one worker, which carries flows.
    Flows = 1,
}

/// First message of both directions of a control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlHello {
    /// What the connection is for; both ends must say the same.
    pub role: Role,
    /// The sender's number for the connection's datagram channel.
    pub channel: ChannelId,
    /// The sender's worker.
    pub worker: u8,
    /// The receiver's number for the channel of an older connection that this one follows. On the wire 0 is none: no channel has that number.
    pub follows: Option<ChannelId>,
    /// The route handle's policy.
    pub policy: String,
}

/// One message of a control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// 0x10
    Hello(ControlHello),
    /// 0x11: opaque, between the two control planes.
    Bus(Vec<u8>),
    /// 0x12
    Credit(Credit),
}

/// How far the sender of this message has read a flow, and what the other end's flows may have on their way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// QUIC's id of the flow's own stream; 0, which is the control stream's: only the window is news.
    pub stream: u64,
    /// Bytes of the flow that were read in all; [`Self::ENDED`]: nothing of it is kept any more.
    pub read: u64,
    /// Bytes that all flows of the connection together may have sent and the peer not read, but for 32 KiB of each.
    pub window: u64,
}

impl Credit {
    /// The flow has ended.
    pub const ENDED: u64 = u64::MAX;

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(CREDIT);
        out.extend_from_slice(&(CREDIT_BODY as u32).to_be_bytes());
        for number in [self.stream, self.read, self.window] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let mut number = || reader.u64("credit");
        let credit = Self { stream: number()?, read: number()?, window: number()? };
        reader.expect_end("credit length")?;
        Ok(credit)
    }
}

impl ControlHello {
    /// Appends the message. On error nothing is appended.
    ///
    /// # Errors
    /// A policy longer than [`MAX_POLICY_LENGTH`].
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let policy = check_length(self.policy.as_bytes(), MAX_POLICY_LENGTH, "policy")?;
        out.push(HELLO);
        out.extend_from_slice(&((12 + policy) as u32).to_be_bytes());
        out.extend_from_slice(&[VERSION, self.role as u8]);
        out.extend_from_slice(&self.channel.0.to_be_bytes());
        out.push(self.worker);
        out.extend_from_slice(&self.follows.map_or(0, |channel| channel.0).to_be_bytes());
        put_short_text(out, &self.policy, "policy")
    }

    fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        reader.expect_u8(VERSION, "hello version")?;
        let role = match reader.u8("hello role")? {
            0 => Role::Pair,
            1 => Role::Flows,
            _ => return Err(Malformed { what: "hello role" }),
        };
        let channel = ChannelId(reader.u32("hello channel id")?);
        let worker = reader.u8("hello worker")?;
        let follows = Some(ChannelId(reader.u32("hello predecessor")?)).filter(|channel| channel.0 != 0);
        let policy = reader.short_text("hello policy")?.to_owned();
        reader.expect_end("hello length")?;
        Ok(Self { role, channel, worker, follows, policy })
    }
}

/// Appends a BUS message. On error nothing is appended.
///
/// # Errors
/// A payload longer than [`MAX_CONTROL_LENGTH`].
pub fn encode_bus(payload: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let length = check_length(payload, MAX_CONTROL_LENGTH, "bus message")?;
    out.push(BUS);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// Appends OPEN with its frame. On error nothing is appended.
///
/// # Errors
/// As [`Open::encode`].
pub fn encode_open(open: &Open<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    out.push(OPEN);
    out.extend_from_slice(&(open.encoded_length() as u16).to_be_bytes());
    open.encode(out).inspect_err(|_| out.truncate(start))
}

/// Appends the answer to OPEN.
pub fn encode_answer(answer: Answer, out: &mut Vec<u8>) {
    match answer {
        Answer::Ok => out.extend_from_slice(&[OPEN_OK, 0, 0]),
        Answer::Fail(reason) => out.extend_from_slice(&[OPEN_FAIL, 0, 1, reason.code()]),
    }
}

/// What the egress says to OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The origin is connected; the flow's bytes follow.
    Ok,
    /// It is not; nothing follows.
    Fail(Reason),
}

/// Collects one `type · length · body` message whose length field has `LENGTH` bytes.
#[derive(Debug, Default)]
struct Collector<const LENGTH: usize> {
    message: Vec<u8>,
}

impl<const LENGTH: usize> Collector<LENGTH> {
    /// Moves bytes out of `input` until a message is whole, then gives its type and body and forgets it.
    /// `limit` says how long a body of a type may be, or refuses the type; it is asked as soon as the length is known.
    fn take(
        &mut self,
        input: &mut &[u8],
        limit: impl Fn(u8) -> Result<usize, StreamError>,
    ) -> Result<Option<(u8, Vec<u8>)>, StreamError> {
        self.fill(input, 1);
        let Some(&kind) = self.message.first() else { return Ok(None) };
        let max = limit(kind)?;
        self.fill(input, 1 + LENGTH);
        let Some(announced) = self.message.get(1..1 + LENGTH) else { return Ok(None) };
        let length = announced.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if length > max {
            return Err(StreamError::TooLong { length, max });
        }
        self.fill(input, 1 + LENGTH + length);
        if self.message.len() < 1 + LENGTH + length {
            return Ok(None);
        }
        let mut body = std::mem::take(&mut self.message);
        body.drain(..=LENGTH);
        Ok(Some((kind, body)))
    }

    /// Moves bytes until the message has `wanted` of them, or the input is empty. Memory follows what has come, not what was announced.
    fn fill(&mut self, input: &mut &[u8], wanted: usize) {
        let missing = wanted.saturating_sub(self.message.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.message.extend_from_slice(taken);
        *input = rest;
    }
}

/// Reads a control stream. HELLO must come first and only once; BUS only where HELLO said it is a pair connection, CREDIT where not.
#[derive(Debug, Default)]
pub struct ControlDecoder {
    collector: Collector<4>,
    role: Option<Role>,
}

impl ControlDecoder {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `input` until one message is whole. `None`: `input` is used up. Call until it says so.
    ///
    /// # Errors
    /// The peer broke the protocol. The stream cannot be read further.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<ControlMessage>, StreamError> {
        let role = self.role;
        let whole = self.collector.take(input, |kind| match (role, kind) {
            (None, HELLO) => Ok(MAX_HELLO_BODY),
            (Some(Role::Pair), BUS) => Ok(MAX_CONTROL_LENGTH),
            (None, _) => Err(StreamError::UnexpectedType { kind, expected: "HELLO" }),
            (Some(Role::Pair), _) => Err(StreamError::UnexpectedType { kind, expected: "BUS" }),
            (Some(Role::Flows), CREDIT) => Ok(CREDIT_BODY),
            (Some(Role::Flows), _) => Err(StreamError::UnexpectedType { kind, expected: "CREDIT" }),
        })?;
        match whole {
            None => Ok(None),
            Some((HELLO, body)) => {
                let hello = ControlHello::decode(&body)?;
                self.role = Some(hello.role);
                Ok(Some(ControlMessage::Hello(hello)))
            }
            Some((CREDIT, body)) => Ok(Some(ControlMessage::Credit(Credit::decode(&body)?))),
            Some((_, body)) => Ok(Some(ControlMessage::Bus(body))),
        }
    }
}

/// Reads OPEN at the beginning of a stream that the peer opened.
#[derive(Debug, Default)]
pub struct OpenDecoder {
    collector: Collector<2>,
}

impl OpenDecoder {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `input` until OPEN is whole; what follows stays in `input`: it is the flow's.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<OpenOwned>, StreamError> {
        let whole = self.collector.take(input, |kind| match kind {
            OPEN => Ok(MAX_OPEN_LENGTH),
            _ => Err(StreamError::UnexpectedType { kind, expected: "OPEN" }),
        })?;
        let Some((_, body)) = whole else { return Ok(None) };
        Ok(Some(Open::decode(&body)?.to_owned()))
    }
}

/// Reads the answer at the beginning of a stream that we opened.
#[derive(Debug, Default)]
pub struct AnswerDecoder {
    collector: Collector<2>,
}

impl AnswerDecoder {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `input` until the answer is whole; what follows stays in `input`: it is the flow's.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Answer>, StreamError> {
        let whole = self.collector.take(input, |kind| match kind {
            OPEN_OK => Ok(0),
            OPEN_FAIL => Ok(1),
            _ => Err(StreamError::UnexpectedType { kind, expected: "OPEN_OK or OPEN_FAIL" }),
        })?;
        match whole {
            None => Ok(None),
            Some((OPEN_OK, _)) => Ok(Some(Answer::Ok)),
            Some((_, body)) => {
                let code = *body.first().ok_or(Malformed { what: "reason" })?;
                Ok(Some(Answer::Fail(Reason::try_from(code)?)))
            }
        }
    }
}
