//! The datagram channel (section 5): the clear header of a packet, and the frames inside its ciphertext.
//! Sealing, opening, the replay window and putting fragments together are in `tunnel`.

use crate::classify::TYPE_CHANNEL;
use crate::codes::Reason;
use crate::ids::{ChannelId, FlowId, SessionId};
use crate::open::Open;
use crate::reader::{Reader, check_length, put_long_bytes};
use crate::repair::Repair;
use crate::{DropReason, EncodeError, Malformed, VERSION};

/// The clear header, which is also the AEAD's additional data, in bytes.
pub const CHANNEL_HEADER_LENGTH: usize = 16;

/// The AEAD's tag at the end of a packet, in bytes.
pub const AEAD_TAG_LENGTH: usize = 16;

/// What a FRAGMENT frame adds to its bytes, in bytes.
pub const FRAGMENT_OVERHEAD: usize = 1 + 4 + 1 + 1 + 2;

/// Pieces of one fragmented frame, at most: enough for a 65,507-byte datagram in pieces of 1,024 bytes.
pub const MAX_FRAGMENTS: u8 = 64;

/// The clear header of a channel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelHeader {
    /// Worker byte of the receiver.
    pub worker: u8,
    /// The receiver's number for the channel.
    pub channel: ChannelId,
    /// Counts the packets of one direction of a channel; makes the nonce.
    pub counter: u64,
}

impl ChannelHeader {
    /// The sixteen bytes.
    pub fn encode(&self) -> [u8; CHANNEL_HEADER_LENGTH] {
        let mut bytes = [0; CHANNEL_HEADER_LENGTH];
        bytes[0] = TYPE_CHANNEL;
        bytes[1] = VERSION;
        bytes[2] = self.worker;
        bytes[4..8].copy_from_slice(&self.channel.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// Reads the header of a packet whose first byte is 0x09.
    ///
    /// # Errors
    /// `channel_truncated` (no room for header and AEAD tag), `channel_version`.
    pub fn decode(packet: &[u8]) -> Result<Self, DropReason> {
        if packet.len() < CHANNEL_HEADER_LENGTH + AEAD_TAG_LENGTH {
            return Err(DropReason::ChannelTruncated);
        }
        let &[kind, version, worker, reserved, c0, c1, c2, c3, ref counter @ ..] =
            packet.first_chunk::<CHANNEL_HEADER_LENGTH>().ok_or(DropReason::ChannelTruncated)?;
        if kind != TYPE_CHANNEL {
            return Err(DropReason::UnknownType);
        }
        if version != VERSION || reserved != 0 {
            return Err(DropReason::ChannelVersion);
        }
        Ok(Self {
            worker,
            channel: ChannelId(u32::from_be_bytes([c0, c1, c2, c3])),
            counter: u64::from_be_bytes(*counter),
        })
    }
}

const DATA: u8 = 0x01;
const OPEN_DATA: u8 = 0x02;
const BOUND: u8 = 0x03;
const SESSION_UNKNOWN: u8 = 0x04;
const CLOSE: u8 = 0x05;
const REFUSED: u8 = 0x06;
const FRAGMENT: u8 = 0x07;
const QUIC: u8 = 0x08;
const REPAIR: u8 = 0x09;

/// Bit 0 of BOUND's flags: a datagram follows.
const BOUND_DATAGRAM: u8 = 0x01;

/// Bit of the types that carry a datagram: its TOS byte, which is not 0, follows the type.
const MARKED: u8 = 0x10;

/// A datagram of a client or an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The TOS byte (IPv6: traffic class) that it came with: DSCP in the high six bits, ECN in the low two.
    pub tos: u8,
    /// As it was sent; may be empty.
    pub bytes: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// One that came without a mark.
    pub const fn unmarked(bytes: &'a [u8]) -> Self {
        Self { tos: 0, bytes }
    }

    /// The type of its frame, and its mark if it has one.
    fn put_type(self, kind: u8, out: &mut Vec<u8>) {
        if self.tos == 0 { out.push(kind) } else { out.extend_from_slice(&[kind | MARKED, self.tos]) }
    }
}

/// One frame of a channel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A datagram of a bound session, either way.
    Data {
        /// The session at the egress.
        session: SessionId,
        /// From the client, or from the origin.
        datagram: Datagram<'a>,
    },
    /// To the egress: a datagram of a flow whose session id the ingress does not know yet.
    OpenData {
        /// What the session is to be.
        open: Open<'a>,
        /// From the client.
        datagram: Datagram<'a>,
    },
    /// To the ingress: the session id of a flow.
    Bound {
        /// From OPEN.
        flow: FlowId,
        /// To be used in DATA from now on.
        session: SessionId,
        /// An answer of the origin that did not wait.
        datagram: Option<Datagram<'a>>,
    },
    /// To the ingress: DATA came for a session that is not there.
    SessionUnknown {
        /// The id in that DATA.
        session: SessionId,
    },
    /// Either way, best effort: the session is over.
    Close {
        /// Which.
        session: SessionId,
        /// Why.
        reason: Reason,
    },
    /// To the ingress: the flow was not opened.
    Refused {
        /// From OPEN.
        flow: FlowId,
        /// Why.
        reason: Reason,
    },
    /// A packet of the channel's own QUIC connection that is longer than the path carries. Only ever in pieces.
    Quic {
        /// The ECN bits of its IP header, had it gone as it is.
        ecn_bits: u8,
        /// The packet.
        packet: &'a [u8],
    },
    /// A piece of a DATA, OPEN_DATA, BOUND, QUIC or REPAIR frame that is too large for one packet.
    Fragment(Fragment<'a>),
    /// Of QUIC packets sent just before: one of them that was lost can be made of the others.
    Repair(Repair<'a>),
}

/// A piece of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The same for all pieces of one frame.
    pub id: u32,
    /// From 0; below `count`.
    pub index: u8,
    /// How many pieces: 2..=64.
    pub count: u8,
    /// The piece.
    pub bytes: &'a [u8],
}

impl Frame<'_> {
    /// Appends the frame. On error nothing is appended.
    ///
    /// # Errors
    /// A datagram, name or piece that its length field cannot hold, or a fragment outside 2..=64 pieces.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let result = self.append(out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn append(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match *self {
            Self::Data { session, datagram } => {
                datagram.put_type(DATA, out);
                out.extend_from_slice(&session.0.to_be_bytes());
                put_long_bytes(out, datagram.bytes, "datagram")
            }
            Self::OpenData { open, datagram } => {
                datagram.put_type(OPEN_DATA, out);
                let length = u16::try_from(open.encoded_length()).unwrap_or(u16::MAX);
                out.extend_from_slice(&length.to_be_bytes());
                open.encode(out)?;
                put_long_bytes(out, datagram.bytes, "datagram")
            }
            Self::Bound { flow, session, datagram } => {
                datagram.unwrap_or(Datagram::unmarked(&[])).put_type(BOUND, out);
                out.extend_from_slice(&flow.0.to_be_bytes());
                out.extend_from_slice(&session.0.to_be_bytes());
                match datagram {
                    None => {
                        out.push(0);
                        Ok(())
                    }
                    Some(datagram) => {
                        out.push(BOUND_DATAGRAM);
                        put_long_bytes(out, datagram.bytes, "datagram")
                    }
                }
            }
            Self::SessionUnknown { session } => {
                out.push(SESSION_UNKNOWN);
                out.extend_from_slice(&session.0.to_be_bytes());
                Ok(())
            }
            Self::Close { session, reason } => {
                out.push(CLOSE);
                out.extend_from_slice(&session.0.to_be_bytes());
                out.push(reason.code());
                Ok(())
            }
            Self::Refused { flow, reason } => {
                out.push(REFUSED);
                out.extend_from_slice(&flow.0.to_be_bytes());
                out.push(reason.code());
                Ok(())
            }
            Self::Quic { ecn_bits, packet } => {
                out.extend_from_slice(&[QUIC, ecn_bits]);
                put_long_bytes(out, packet, "QUIC packet")
            }
            Self::Fragment(fragment) => fragment.append(out),
            Self::Repair(repair) => {
                out.push(REPAIR);
                repair.append(out)
            }
        }
    }
}

impl Fragment<'_> {
    fn append(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let is_sound = (2..=MAX_FRAGMENTS).contains(&self.count) && self.index < self.count;
        if !is_sound {
            let (length, max) = (usize::from(self.count), usize::from(MAX_FRAGMENTS));
            return Err(EncodeError { what: "fragment count", length, max });
        }
        check_length(self.bytes, usize::from(u16::MAX), "fragment")?;
        out.push(FRAGMENT);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&[self.index, self.count]);
        put_long_bytes(out, self.bytes, "fragment")
    }
}

/// The frames of one opened packet, in order. After a refused frame there are no more: where the next would begin is unknown.
pub struct Frames<'a> {
    reader: Reader<'a>,
    is_broken: bool,
}

/// Iterates over the frames in `plaintext`.
pub const fn frames(plaintext: &[u8]) -> Frames<'_> {
    Frames { reader: Reader::new(plaintext), is_broken: false }
}

impl<'a> Iterator for Frames<'a> {
    /// A refused frame is counted as [`DropReason::ChannelFrame`].
    type Item = Result<Frame<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_broken || self.reader.is_empty() {
            return None;
        }
        let frame = read_frame(&mut self.reader);
        self.is_broken = frame.is_err();
        Some(frame)
    }
}

fn read_frame<'a>(reader: &mut Reader<'a>) -> Result<Frame<'a>, Malformed> {
    let session = |reader: &mut Reader<'a>| reader.u32("session id").map(SessionId);
    let flow = |reader: &mut Reader<'a>| reader.u64("flow id").map(FlowId);
    let reason = |reader: &mut Reader<'a>| Reason::try_from(reader.u8("reason")?);
    let kind = reader.u8("frame type")?;
    let (kind, tos) = match kind & !MARKED {
        carrying @ (DATA | OPEN_DATA | BOUND) if kind != carrying => (carrying, read_tos(reader)?),
        _ => (kind, 0),
    };
    let datagram = |reader: &mut Reader<'a>| Ok(Datagram { tos, bytes: reader.long_bytes("datagram")? });
    match kind {
        DATA => Ok(Frame::Data { session: session(reader)?, datagram: datagram(reader)? }),
        OPEN_DATA => {
            let open = Open::decode(reader.long_bytes("open")?)?;
            Ok(Frame::OpenData { open, datagram: datagram(reader)? })
        }
        BOUND => {
            let (flow, session) = (flow(reader)?, session(reader)?);
            let datagram = match reader.u8("bound flags")? {
                0 if tos == 0 => None,
                BOUND_DATAGRAM => Some(datagram(reader)?),
                _ => return Err(Malformed { what: "bound flags" }),
            };
            Ok(Frame::Bound { flow, session, datagram })
        }
        SESSION_UNKNOWN => Ok(Frame::SessionUnknown { session: session(reader)? }),
        CLOSE => Ok(Frame::Close { session: session(reader)?, reason: reason(reader)? }),
        REFUSED => Ok(Frame::Refused { flow: flow(reader)?, reason: reason(reader)? }),
        QUIC => {
            let ecn_bits = reader.u8("ECN bits")?;
            if ecn_bits > 3 {
                return Err(Malformed { what: "ECN bits" });
            }
            Ok(Frame::Quic { ecn_bits, packet: reader.long_bytes("QUIC packet")? })
        }
        FRAGMENT => {
            let id = reader.u32("fragment id")?;
            let (index, count) = (reader.u8("fragment index")?, reader.u8("fragment count")?);
            if !(2..=MAX_FRAGMENTS).contains(&count) || index >= count {
                return Err(Malformed { what: "fragment count" });
            }
            Ok(Frame::Fragment(Fragment { id, index, count, bytes: reader.long_bytes("fragment")? }))
        }
        REPAIR => Ok(Frame::Repair(Repair::read(reader)?)),
        _ => Err(Malformed { what: "frame type" }),
    }
}

/// A mark. One that says nothing has no place: every frame has one encoding.
fn read_tos(reader: &mut Reader<'_>) -> Result<u8, Malformed> {
    match reader.u8("tos")? {
        0 => Err(Malformed { what: "tos" }),
        tos => Ok(tos),
    }
}
