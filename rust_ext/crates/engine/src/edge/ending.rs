//! Why a flow ends, in the words and numbers of its record, and what its two ends are told. The numbers are those of Cloudflare
//! Spectrum's events where there is one, and from 600 our own; docs/engine-protocol.md lists them.

use std::io;

use l4proxy_wire::codes::{Reason, StreamCode};
use rustix::io::Errno;

use crate::counters::{AppValue, Dropped};
use crate::overlay::Loss;
use crate::tls::{SessionError, TlsFault};

/// One of the two ends of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Where the client is.
    Client,
    /// Where the origin is.
    Origin,
}

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Origin => "origin",
        }
    }
}

/// Why an origin could not be had. Says what the next attempt may hope for: another way may do better, unless it is `Shortage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialFailure {
    /// It refused.
    Refused,
    /// There is no way to it.
    Unreachable,
    /// It did not answer in time.
    TimedOut,
    /// It answered and reset.
    Reset,
    /// This host lacks a port, a descriptor or memory.
    Shortage,
    /// There is no candidate, or no time was left to try one.
    NoRoute,
    /// Its name has no address.
    Unresolved,
    /// Its name led to an address that names may not lead to.
    Denied,
    /// The source address that it is to see cannot be had.
    NoSource,
    /// It was reached, and TLS with it failed.
    Tls(TlsFault),
    /// The egress PoP said so.
    Peer(Reason),
    /// The tunnel was lost before the egress PoP answered.
    TunnelLost,
    /// Something else went wrong here.
    Local,
}

impl DialFailure {
    /// What a failed connect means.
    pub(crate) fn of(error: &io::Error) -> Self {
        if l4proxy_io::tcp::is_local_shortage(error) {
            return Self::Shortage;
        }
        match Errno::from_io_error(error) {
            Some(Errno::CONNREFUSED) => Self::Refused,
            Some(Errno::CONNRESET | Errno::CONNABORTED) => Self::Reset,
            Some(Errno::TIMEDOUT) => Self::TimedOut,
            // The last two: a firewall of this host.
            Some(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN | Errno::ACCESS | Errno::PERM) => {
                Self::Unreachable
            }
            _ => Self::Local,
        }
    }

    /// What it is counted as when there was nothing to dial at all.
    pub(crate) fn nowhere_to_go(self) -> Option<Dropped> {
        match self {
            Self::NoRoute => Some(Dropped::NoRoute),
            Self::Unresolved => Some(Dropped::OriginUnresolved),
            Self::Refused
            | Self::Unreachable
            | Self::TimedOut
            | Self::Reset
            | Self::Shortage
            | Self::Denied
            | Self::NoSource
            | Self::Tls(_)
            | Self::Peer(_)
            | Self::TunnelLost
            | Self::Local => None,
        }
    }

    /// For the ingress PoP.
    pub(crate) const fn wire_reason(self) -> Reason {
        match self {
            Self::Refused => Reason::Refused,
            Self::Unreachable | Self::NoRoute | Self::Unresolved => Reason::Unreachable,
            Self::Denied => Reason::Denied,
            Self::TimedOut => Reason::TimedOut,
            Self::Reset => Reason::Reset,
            Self::Shortage => Reason::LimitReached,
            Self::Tls(_) => Reason::OriginTls,
            Self::Peer(reason) => reason,
            Self::TunnelLost | Self::Local | Self::NoSource => Reason::LocalError,
        }
    }
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Both directions ended; this side began.
    Finished(Side),
    /// This side sent RST.
    Reset(Side),
    /// This side stopped answering.
    TimedOut(Side),
    /// TLS with this side failed or broke.
    Tls(Side, TlsFault),
    /// The origin could not be had.
    NotDialled(DialFailure),
    /// Nothing passed for the idle time.
    Idle,
    /// One direction had ended, and nothing passed for the half-closed time.
    HalfClosedIdle,
    /// A UDP session made room for another.
    Evicted,
    /// The client is denied by a list that came after the flow.
    AccessDenied,
    /// The drain's deadline came.
    DrainDeadline,
    /// The tunnel between the PoPs was lost, and what the other PoP had of the flow with it.
    TunnelLost(Loss),
    /// The PoP on this side ended it, and said why.
    Peer(Side, Reason),
    /// Something went wrong here.
    Local,
}

impl Ending {
    /// What an error of an established connection means.
    pub(crate) fn of_error(side: Side, error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH) => Self::TimedOut(side),
            _ => Self::Reset(side),
        }
    }

    /// What an error of a session means.
    pub(crate) fn of_session(side: Side, error: &SessionError) -> Self {
        match error {
            SessionError::Tls(fault) => Self::Tls(side, *fault),
            SessionError::Socket(error) => Self::of_error(side, error),
        }
    }

    /// What the end of a stream at the other PoP means for the side that lies behind it.
    pub(crate) const fn of_stream(side: Side, code: Option<StreamCode>, loss: Option<Loss>) -> Self {
        match code {
            Some(StreamCode::TcpReset) => Self::Reset(side),
            Some(StreamCode::TimedOut) => Self::TimedOut(side),
            Some(StreamCode::Idle) => Self::Peer(side, Reason::Idle),
            Some(StreamCode::DrainDeadline) => Self::Peer(side, Reason::Draining),
            Some(StreamCode::InternalError) => Self::Peer(side, Reason::LocalError),
            Some(StreamCode::ProtocolError) => Self::Peer(side, Reason::ProtocolError),
            None => Self::TunnelLost(match loss {
                Some(loss) => loss,
                None => Loss::Other,
            }),
        }
    }

    /// The record's number.
    pub(crate) const fn code(self) -> u16 {
        match self {
            Self::Finished(_) => 200,
            Self::Tls(Side::Client, fault) if fault.is_established() => 490,
            Self::Tls(Side::Client, _) => 443,
            Self::Tls(Side::Origin, _) | Self::NotDialled(DialFailure::Tls(_)) => 609,
            Self::Reset(Side::Origin) | Self::NotDialled(DialFailure::Reset) => 444,
            Self::TimedOut(Side::Origin) | Self::NotDialled(DialFailure::TimedOut) => 445,
            Self::NotDialled(DialFailure::Refused | DialFailure::Unreachable) => 447,
            Self::Reset(Side::Client) => 495,
            Self::TimedOut(Side::Client) => 497,
            Self::Evicted | Self::NotDialled(DialFailure::Shortage) => 602,
            Self::Idle | Self::HalfClosedIdle => 603,
            Self::DrainDeadline => 604,
            Self::AccessDenied => 605,
            Self::NotDialled(DialFailure::NoRoute | DialFailure::Denied) => 606,
            Self::NotDialled(DialFailure::Unresolved) => 447,
            Self::NotDialled(DialFailure::NoSource) => 600,
            Self::TunnelLost(_) | Self::NotDialled(DialFailure::TunnelLost) => 608,
            Self::Local | Self::NotDialled(DialFailure::Local) => 600,
            Self::NotDialled(DialFailure::Peer(reason)) | Self::Peer(_, reason) => peer_code(reason),
        }
    }

    /// The record's word.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Finished(_) => "finished",
            Self::Tls(Side::Client, fault) => fault.as_str(),
            Self::Tls(Side::Origin, fault) | Self::NotDialled(DialFailure::Tls(fault)) => fault.as_origins(),
            Self::Reset(_) | Self::NotDialled(DialFailure::Reset) => "reset",
            Self::TimedOut(_) | Self::NotDialled(DialFailure::TimedOut) => "timed_out",
            Self::NotDialled(DialFailure::Refused) => "refused",
            Self::NotDialled(DialFailure::Unreachable) => "unreachable",
            Self::NotDialled(DialFailure::Shortage) => "fd_limit",
            Self::NotDialled(DialFailure::NoRoute) => "no_route",
            Self::NotDialled(DialFailure::Unresolved) => "unresolved",
            Self::NotDialled(DialFailure::Denied) => "origin_denied",
            Self::NotDialled(DialFailure::NoSource) => "no_source",
            Self::TunnelLost(Loss::Restarted) => "peer_restarted",
            Self::TunnelLost(Loss::Stopped) => "peer_stopped",
            Self::TunnelLost(Loss::Silent) => "peer_silent",
            Self::NotDialled(DialFailure::TunnelLost) | Self::TunnelLost(Loss::Other) => "tunnel_lost",
            Self::NotDialled(DialFailure::Peer(reason)) | Self::Peer(_, reason) => reason.as_str(),
            Self::NotDialled(DialFailure::Local) | Self::Local => "local_error",
            Self::Idle => "idle",
            Self::HalfClosedIdle => "half_closed_idle",
            Self::Evicted => "evicted",
            Self::DrainDeadline => "drain_deadline",
            Self::AccessDenied => "access_denied",
        }
    }

    /// Whose doing it was, for the record.
    pub(crate) const fn closed_by(self) -> &'static str {
        match self {
            Self::Finished(side) | Self::Reset(side) | Self::TimedOut(side) | Self::Tls(side, _) => {
                side.name()
            }
            Self::NotDialled(failure) => match failure {
                DialFailure::Refused
                | DialFailure::Unreachable
                | DialFailure::TimedOut
                | DialFailure::Unresolved
                | DialFailure::Denied
                | DialFailure::Tls(_)
                | DialFailure::Reset => "origin",
                DialFailure::Peer(
                    Reason::Refused
                    | Reason::Unreachable
                    | Reason::TimedOut
                    | Reason::Reset
                    | Reason::OriginTls,
                ) => "origin",
                DialFailure::Peer(_) => "peer",
                DialFailure::Shortage
                | DialFailure::NoRoute
                | DialFailure::NoSource
                | DialFailure::TunnelLost
                | DialFailure::Local => "proxy",
            },
            Self::Peer(..) => "peer",
            Self::Idle
            | Self::HalfClosedIdle
            | Self::Evicted
            | Self::DrainDeadline
            | Self::AccessDenied
            | Self::TunnelLost(_)
            | Self::Local => "proxy",
        }
    }

    /// Whether the origin is to blame.
    pub(crate) fn is_origins(self) -> bool {
        !matches!(self, Self::Finished(_)) && self.closed_by() == "origin"
    }

    /// For the PoP at the other end of a stream.
    pub(crate) const fn stream_code(self) -> StreamCode {
        match self {
            Self::Finished(_) | Self::Reset(_) | Self::AccessDenied | Self::Tls(..) => StreamCode::TcpReset,
            Self::TimedOut(_) => StreamCode::TimedOut,
            Self::Idle | Self::HalfClosedIdle | Self::Peer(_, Reason::Idle) => StreamCode::Idle,
            Self::DrainDeadline | Self::Peer(_, Reason::Draining) => StreamCode::DrainDeadline,
            Self::Peer(_, Reason::ProtocolError) => StreamCode::ProtocolError,
            Self::NotDialled(_) | Self::Evicted | Self::TunnelLost(_) | Self::Peer(..) | Self::Local => {
                StreamCode::InternalError
            }
        }
    }

    /// For the PoP at the other end of a UDP session.
    pub(crate) const fn wire_reason(self) -> Reason {
        match self {
            Self::Finished(_) | Self::Idle | Self::HalfClosedIdle => Reason::Idle,
            Self::Reset(_) | Self::Tls(..) => Reason::Reset,
            Self::TimedOut(_) => Reason::TimedOut,
            Self::NotDialled(failure) => failure.wire_reason(),
            Self::Evicted => Reason::LimitReached,
            Self::DrainDeadline => Reason::Draining,
            Self::AccessDenied => Reason::Denied,
            Self::Peer(_, reason) => reason,
            Self::TunnelLost(_) | Self::Local => Reason::LocalError,
        }
    }

    /// What an app counts it as, if it ended with the tunnel.
    pub(crate) const fn lost(self) -> Option<AppValue> {
        match self {
            Self::TunnelLost(Loss::Restarted) => Some(AppValue::LostPeerRestarted),
            Self::TunnelLost(Loss::Stopped) => Some(AppValue::LostPeerStopped),
            Self::TunnelLost(Loss::Silent) => Some(AppValue::LostPeerSilent),
            Self::TunnelLost(Loss::Other) => Some(AppValue::LostTunnel),
            Self::Finished(_)
            | Self::Reset(_)
            | Self::TimedOut(_)
            | Self::Tls(..)
            | Self::NotDialled(_)
            | Self::Idle
            | Self::HalfClosedIdle
            | Self::Evicted
            | Self::AccessDenied
            | Self::DrainDeadline
            | Self::Peer(..)
            | Self::Local => None,
        }
    }
}

const fn peer_code(reason: Reason) -> u16 {
    match reason {
        Reason::Refused | Reason::Unreachable => 447,
        Reason::TimedOut => 445,
        Reason::Reset => 444,
        Reason::UnknownApp | Reason::UnknownOrigin | Reason::Denied => 606,
        Reason::LimitReached => 602,
        Reason::Idle => 603,
        Reason::Draining => 604,
        Reason::LocalError | Reason::ProtocolError => 600,
        Reason::OriginTls => 609,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Record: code, reason, closed by.
    fn record(ending: Ending) -> (u16, &'static str, &'static str) {
        (ending.code(), ending.reason(), ending.closed_by())
    }

    #[test]
    fn records_speak_spectrums_numbers_where_there_is_one() {
        let refused = DialFailure::of(&io::Error::from_raw_os_error(111));
        let rows = [
            (Ending::Finished(Side::Client), (200, "finished", "client")),
            (Ending::Reset(Side::Origin), (444, "reset", "origin")),
            (Ending::TimedOut(Side::Origin), (445, "timed_out", "origin")),
            (Ending::NotDialled(refused), (447, "refused", "origin")),
            (Ending::NotDialled(DialFailure::Peer(Reason::Refused)), (447, "refused", "origin")),
            (Ending::Reset(Side::Client), (495, "reset", "client")),
            (Ending::Tls(Side::Client, TlsFault::NoCertificate), (443, "tls_no_certificate", "client")),
            (Ending::Tls(Side::Client, TlsFault::Truncated), (490, "tls_truncated", "client")),
            (Ending::Tls(Side::Origin, TlsFault::Broken), (609, "origin_tls_broken", "origin")),
            (Ending::Idle, (603, "idle", "proxy")),
            (Ending::AccessDenied, (605, "access_denied", "proxy")),
            (Ending::NotDialled(DialFailure::Peer(Reason::Denied)), (606, "denied", "peer")),
            (Ending::of_stream(Side::Origin, None, None), (608, "tunnel_lost", "proxy")),
            (Ending::of_stream(Side::Origin, None, Some(Loss::Silent)), (608, "peer_silent", "proxy")),
            (Ending::of_stream(Side::Origin, None, Some(Loss::Restarted)), (608, "peer_restarted", "proxy")),
            (Ending::of_stream(Side::Client, None, Some(Loss::Stopped)), (608, "peer_stopped", "proxy")),
            (Ending::of_stream(Side::Origin, Some(StreamCode::TcpReset), None), (444, "reset", "origin")),
        ];
        for (ending, expected) in rows {
            assert_eq!(record(ending), expected);
        }
    }

    #[test]
    fn every_code_has_a_counter() {
        use crate::counters::END_CODES;
        let reasons = (0..=u8::MAX).filter_map(|byte| Reason::try_from(byte).ok());
        let codes = reasons
            .map(peer_code)
            .chain([200, 443, 444, 445, 447, 490, 495, 497, 600, 602, 603, 604, 605, 606, 608, 609]);
        for code in codes {
            assert!(END_CODES.contains(&code), "{code}");
        }
    }

    #[test]
    fn a_reset_keeps_its_meaning_on_its_way_through_two_pops() {
        for side in [Side::Client, Side::Origin] {
            for ending in [Ending::Reset(side), Ending::TimedOut(side)] {
                assert_eq!(Ending::of_stream(side, Some(ending.stream_code()), None), ending);
            }
        }
    }

    #[test]
    fn a_shortage_here_is_not_the_origins_fault() {
        let no_descriptors = io::Error::from_raw_os_error(24);
        let ending = Ending::NotDialled(DialFailure::of(&no_descriptors));
        assert_eq!(record(ending), (602, "fd_limit", "proxy"));
        assert!(!ending.is_origins());
        assert!(Ending::NotDialled(DialFailure::TimedOut).is_origins());
    }
}
