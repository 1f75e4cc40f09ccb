//! The vocabulary between a worker and its tunnels: keys, events, and what calls answer. Types only.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use l4proxy_wire::codes::{Reason, StreamCode};
use l4proxy_wire::ids::PopId;
use l4proxy_wire::keys::PairKeys;
use l4proxy_wire::open::OpenOwned;
use l4proxy_wire::stream::Role;

use crate::counters::HandshakeFailure;
use crate::options::DatagramMode;

/// One connection of this worker's [`Tunnels`](crate::Tunnels). Never reused for another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    pub(crate) index: u16,
    pub(crate) generation: u32,
}

impl ConnectionKey {
    /// One that names no connection, for tests of tables whose keys these are.
    #[doc(hidden)]
    #[must_use]
    pub const fn for_tests(generation: u32) -> Self {
        Self { index: 0, generation }
    }

    /// A number for logs, and for tables of the caller's.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        (self.generation as u64) << 16 | self.index as u64
    }
}

/// One TCP flow inside a connection. Never reused for another flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelStream {
    /// The connection that carries it.
    pub connection: ConnectionKey,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// The handshake runs; streams and frames may be given already, they wait.
    Handshaking,
    /// Both sides are authenticated; the peer's `HELLO` is on its way.
    AwaitingHello,
    /// In use.
    Ready,
}

/// What is known of one connection.
#[derive(Debug, Clone)]
pub struct ConnectionView<'a> {
    /// The PoP at the other end.
    pub peer: PopId,
    /// Its name.
    pub peer_name: &'a str,
    /// What it is for; `None` on the listening side until the `HELLO`.
    pub role: Option<Role>,
    /// The route handle's policy, from the `HELLO` of the dialling side.
    pub policy: &'a str,
    /// What carries its frames of UDP flows, once the handshake is done.
    pub datagrams: DatagramMode,
    /// Whether this PoP dialled.
    pub dialled: bool,
    /// Where it is in its life.
    pub state: ConnectionState,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// The longest packet that QUIC sends, in bytes.
    pub packet_bytes: u16,
    /// Congestion window in bytes.
    pub cwnd_bytes: u64,
    /// The worker of the peer, once its `HELLO` came.
    pub peer_worker: Option<u8>,
    /// Streams in use, in either direction.
    pub streams: usize,
    /// When it began.
    pub began: Instant,
    /// When a packet of the peer came on it last.
    pub last_received: Option<Instant>,
    /// The older connection that it follows: datagrams of that one's flows go over this one. The dialling side knows whether the other
    /// has agreed with `HelloReceived`.
    pub follows: Option<ConnectionKey>,
}

/// Totals of one connection since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionStats {
    /// QUIC datagrams sent.
    pub quic_datagrams_sent: u64,
    /// QUIC bytes sent.
    pub quic_bytes_sent: u64,
    /// QUIC datagrams received.
    pub quic_datagrams_received: u64,
    /// QUIC bytes received.
    pub quic_bytes_received: u64,
    /// QUIC packets declared lost.
    pub quic_packets_lost: u64,
    /// QUIC packets sent.
    pub quic_packets_sent: u64,
    /// Packets of the datagram channel sent.
    pub channel_packets_sent: u64,
    /// Packets of the datagram channel received.
    pub channel_packets_received: u64,
}

/// What `poll_transmit` has written into the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransmitInfo {
    /// The connection, whose route handle says over which path to send. `None` for an answer to a packet that belongs to
    /// no connection: send it to `peer` by any path.
    pub connection: Option<ConnectionKey>,
    /// The PoP it is for; [`NOBODY`](crate::NOBODY) while that is not known.
    pub peer: PopId,
    /// Send it back there instead: it is for a PoP of which no path is known yet, or answers a handshake that came from there.
    pub back_to: Option<ReturnAddress>,
    /// Bytes in the buffer.
    pub size: usize,
    /// When the buffer holds several datagrams, the size of each but the last.
    pub segment_size: Option<usize>,
    /// ECN bits for the IP header.
    pub ecn_bits: u8,
    /// What it carries.
    pub kind: TransmitKind,
    /// It has been sent before, over a path that has died or may have.
    pub is_again: bool,
    /// It is to go over a second path as well, if there is one: all of its frames were sent so.
    pub is_twice: bool,
}

/// Where a packet came to and from that passed no transit, and where its answer goes. Carried for the caller; nothing here uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReturnAddress {
    /// The own socket's address.
    pub local: SocketAddr,
    /// The sender's.
    pub remote: SocketAddr,
}

/// What a transmitted packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransmitKind {
    /// QUIC: streams and acknowledgements.
    Quic,
    /// The datagram channel.
    Channel,
}

/// Something the worker must know.
#[derive(Debug)]
pub enum TunnelEvent {
    /// Both sides have proved who they are. On the listening side also: the `HELLO` came.
    Connected {
        /// The connection.
        key: ConnectionKey,
        /// The PoP at the other end.
        peer: PopId,
        /// What it is for.
        role: Role,
    },
    /// The peer's `HELLO` came: the datagram channel flows from here on.
    HelloReceived {
        /// The connection.
        key: ConnectionKey,
        /// The peer's policy. The listening side sends over its own handle of that policy, else `off`.
        policy: String,
    },
    /// Keys for outer headers, hellos and probes between us and the peer.
    PairKeys {
        /// The pair connection they come from.
        key: ConnectionKey,
        /// The other PoP.
        peer: PopId,
        /// The keys.
        keys: PairKeys,
        /// `false`: the peer may use them from now on. `true`: so may we.
        may_send: bool,
        /// Its connection follows an older one: both ends are the processes that they were.
        continues: bool,
    },
    /// The keys of a channel have been used so much that another connection should follow this one. Told once.
    ChannelWorn {
        /// The connection.
        key: ConnectionKey,
    },
    /// A connection has ended, after `StreamGone` of each of its streams.
    Lost {
        /// The connection.
        key: ConnectionKey,
        /// The PoP at the other end.
        peer: PopId,
        /// What it was for; `None` when the listening side never learned it.
        role: Option<Role>,
        /// What that says of the peer.
        loss: Loss,
        /// What the handshake failed for, or would have.
        failure: HandshakeFailure,
        /// For operators.
        reason: String,
    },
    /// A connection of a peer was refused, or it failed before its `HELLO`.
    PeerRefused {
        /// The PoP whose address it came from.
        peer: PopId,
        /// What it failed for.
        failure: HandshakeFailure,
        /// For operators.
        reason: String,
    },
    /// A message of the peer's control plane.
    Bus {
        /// The PoP it came from.
        peer: PopId,
        /// The message.
        payload: Vec<u8>,
    },
    /// The peer opens a flow: answer with `accept` or `refuse`.
    StreamIncoming {
        /// The stream.
        stream: TunnelStream,
        /// The PoP it came from.
        peer: PopId,
        /// What it wants.
        open: OpenOwned,
    },
    /// The peer answered `OPEN_OK`.
    StreamOpened {
        /// The stream.
        stream: TunnelStream,
    },
    /// The peer answered `OPEN_FAIL`. The stream is gone.
    StreamRefused {
        /// The stream.
        stream: TunnelStream,
        /// Why.
        reason: Reason,
    },
    /// There is something to read, or the end, after `read` said `Blocked`.
    StreamReadable {
        /// The stream.
        stream: TunnelStream,
    },
    /// There is room again after `write` took less than it was given.
    StreamWritable {
        /// The stream.
        stream: TunnelStream,
    },
    /// The stream was reset by the peer, or went with its connection.
    StreamGone {
        /// The stream.
        stream: TunnelStream,
        /// The peer's code, if it is one of ours.
        code: Option<StreamCode>,
        /// How its connection ended; `None` when that lives and only the stream was reset.
        loss: Option<Loss>,
    },
}

/// How a connection ended, and what that says of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The peer's process is another one: it knows the connection no more, and nothing of what was carried on it.
    Restarted,
    /// The peer said that it ends.
    Stopped,
    /// Nothing came of the peer for too long.
    Silent,
    /// The peer broke the protocol, was refused, or we closed it; nothing is said of whether it lives.
    Other,
}

/// What `write` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamWrite {
    /// So many bytes were taken. When fewer than given, `StreamWritable` follows.
    Wrote(usize),
    /// None were; `StreamWritable` follows.
    Blocked,
    /// The stream has ended.
    Gone,
}

/// What `read` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamRead {
    /// So many bytes are in the buffer.
    Data(usize),
    /// Nothing is there; `StreamReadable` follows.
    Blocked,
    /// The peer has finished its direction.
    Finished,
    /// The peer has reset the stream.
    Reset(Option<StreamCode>),
    /// The stream has ended.
    Gone,
}
