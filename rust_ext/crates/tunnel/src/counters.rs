//! Totals of one worker's tunnels. Numbers only; names for metrics come from the reasons' `as_str`.

use std::collections::BTreeMap;

use crate::error::DropReason;

/// Why a handshake failed, coarse enough to be a metric's label; the whole reason is in the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HandshakeFailure {
    /// The peer's certificate is expired or not valid yet.
    NotInTime,
    /// The peer's certificate is signed by another CA.
    OtherCa,
    /// The peer's certificate names another PoP, or none, or one that is not in the fleet file.
    WrongName,
    /// The peer, or its certificate, is revoked.
    Revoked,
    /// The peer finds our certificate expired or not valid yet.
    NotInTimeThere,
    /// The peer refused our certificate for something else, or our protocol.
    RefusedByPeer,
    /// No `HELLO` in time.
    TimedOut,
    /// Anything else.
    Other,
}

impl HandshakeFailure {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::NotInTimeThere,
        Self::NotInTime,
        Self::OtherCa,
        Self::WrongName,
        Self::Revoked,
        Self::RefusedByPeer,
        Self::TimedOut,
        Self::Other,
    ];

    /// The name of its total.
    #[must_use]
    pub const fn as_total(self) -> &'static str {
        match self {
            Self::NotInTime => "overlay_handshakes_failed_not_in_time",
            Self::OtherCa => "overlay_handshakes_failed_other_ca",
            Self::WrongName => "overlay_handshakes_failed_wrong_name",
            Self::NotInTimeThere => "overlay_handshakes_failed_not_in_time_there",
            Self::Revoked => "overlay_handshakes_failed_revoked",
            Self::RefusedByPeer => "overlay_handshakes_failed_refused_by_peer",
            Self::TimedOut => "overlay_handshakes_failed_timed_out",
            Self::Other => "overlay_handshakes_failed_other",
        }
    }

    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotInTime => "not_in_time",
            Self::OtherCa => "other_ca",
            Self::WrongName => "wrong_name",
            Self::Revoked => "revoked",
            Self::NotInTimeThere => "not_in_time_there",
            Self::RefusedByPeer => "refused_by_peer",
            Self::TimedOut => "timed_out",
            Self::Other => "other",
        }
    }
}

/// Totals since the start, and what is in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections in use.
    pub connections: usize,
    /// Streams in use.
    pub streams: usize,
    /// Bytes that peers may send without anybody reading them.
    pub window_bytes: u64,
    /// Bytes of flows that were sent and that peers have not read, but for 32 kB of each flow.
    pub sending_bytes: u64,
    /// A connection's window could not grow as it should have: the worker's memory is used up.
    pub windows_short: u64,
    /// A flow was made to wait because the worker's memory for bytes on their way is used up.
    pub writes_short: u64,
    /// Connections that we started.
    pub connections_dialled: u64,
    /// Connections of peers that we took.
    pub connections_accepted: u64,
    /// First packets of peers that were answered with a `Retry`: too many handshakes were unproved.
    pub retries: u64,
    /// Connections that ended otherwise than by our `close`.
    pub connections_lost: u64,
    /// Streams that peers opened with something that is no `OPEN`.
    pub streams_malformed: u64,
    /// Control messages sent.
    pub bus_sent: u64,
    /// Control messages received.
    pub bus_received: u64,
    /// Packets that were sent again because a path died.
    pub packets_resent: u64,
    /// Packets that could not be kept for that: too much was on its way.
    pub packets_unkept: u64,
    /// QUIC packets that went in pieces, because the path carries less than the one before.
    pub packets_split: u64,
    /// Repairs that were sent.
    pub repairs_sent: u64,
    /// Packets that were lost and made of a repair.
    pub packets_repaired: u64,
    /// Handshakes that failed, by reason.
    pub handshakes_failed: BTreeMap<HandshakeFailure, u64>,
    /// What was dropped, by reason.
    pub drops: BTreeMap<DropReason, u64>,
}

impl Counters {
    pub(crate) fn drop(&mut self, reason: DropReason) {
        *self.drops.entry(reason).or_default() += 1;
    }

    pub(crate) fn handshake_failed(&mut self, failure: HandshakeFailure) {
        *self.handshakes_failed.entry(failure).or_default() += 1;
    }
}
