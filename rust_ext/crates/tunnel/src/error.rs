//! What can go wrong, as types: errors of calls, and reasons under which packets are dropped and counted.

use std::time::Duration;

use l4proxy_wire::ids::PopId;

/// Why an identity was not accepted. The fault is the operator's files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The CA file has no certificate. Without one nobody could be verified, so nothing is trusted.
    #[error("the CA file holds no certificate")]
    NoCa,
    /// A PEM file cannot be read.
    #[error("{file} is not valid PEM: {reason}")]
    Pem {
        /// Which of the three: "CA", "certificate" or "key".
        file: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A certificate cannot be parsed.
    #[error("{file}: certificate cannot be parsed: {reason}")]
    Certificate {
        /// "CA" or "certificate".
        file: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// The certificate file has no certificate.
    #[error("the certificate file holds no certificate")]
    NoCertificate,
    /// The key file has no private key that can be used.
    #[error("the key file holds no usable private key: {0}")]
    Key(String),
    /// The private key is not the certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// Our own certificate would be refused by every peer.
    #[error("own certificate: {0}")]
    Own(PeerCertificateError),
    /// The TLS library would not take the settings.
    #[error("TLS settings: {0}")]
    Tls(String),
}

/// Why a peer's certificate was refused. The text is what operators read in events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerCertificateError {
    /// Its notAfter has passed by our clock: it was not renewed, or our clock is ahead.
    #[error("certificate expired {} ago by this PoP's clock: it was not renewed, or this PoP's clock is ahead", span(*ago))]
    Expired {
        /// Since when, in whole seconds.
        ago: Duration,
    },
    /// Its notBefore is to come by our clock: ours is behind, or that of whoever issued it was ahead.
    #[error(
        "certificate not valid for another {} by this PoP's clock: this PoP's clock is behind, or its issuer's was ahead",
        span(*ahead)
    )]
    NotValidYet {
        /// Until it is, in whole seconds.
        ahead: Duration,
    },
    /// The list of what is revoked has its name or its serial number.
    #[error("certificate revoked")]
    Revoked,
    /// No chain leads to the fleet's CA.
    #[error("signed by another CA")]
    OtherCa,
    /// A signature, extension or usage in the chain is wrong.
    #[error("certificate invalid: {0}")]
    Invalid(String),
    /// There is no URI among its subject alternative names.
    #[error("names no PoP")]
    NoName,
    /// There are several URIs.
    #[error("names more than one PoP")]
    SeveralNames,
    /// The URI is not one of this fleet.
    #[error("names {presented}, which is not of fleet {fleet}")]
    OtherFleet {
        /// The URI in the certificate.
        presented: String,
        /// Our fleet.
        fleet: String,
    },
    /// It is another PoP's.
    #[error("names PoP {presented}, expected {expected}")]
    OtherPop {
        /// The PoP in the certificate.
        presented: String,
        /// The PoP it should be.
        expected: String,
    },
    /// The PoP is not in the fleet file.
    #[error("names PoP {presented}, which is not in the fleet file")]
    UnknownPop {
        /// The PoP in the certificate.
        presented: String,
    },
}

/// A time for people: two units at most, and coarse enough that attempts one after the other mostly say the same.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) if minutes == 0 => format!("{seconds} s"),
        (0, 0) => format!("{minutes} min"),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Why no connection was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No identity has been set.
    #[error("no identity")]
    NoIdentity,
    /// The PoP is not among the peers.
    #[error("PoP {0} is not a peer")]
    UnknownPeer(PopId),
    /// The PoP is revoked by name.
    #[error("PoP {0} is revoked")]
    Revoked(PopId),
    /// All places are taken; retry when a connection has ended.
    #[error("{0} connections are open, no more are allowed")]
    Full(usize),
    /// The policy does not fit its length byte.
    #[error("policy is longer than 255 bytes")]
    PolicyTooLong,
    /// The connection to be followed has ended, was not dialled here, or is not ready.
    #[error("there is no such connection to follow")]
    NothingToFollow,
    /// The QUIC library refused.
    #[error("{0}")]
    Quic(String),
}

/// Why a frame or control message was not taken for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The connection has ended or never was.
    #[error("no such connection")]
    Gone,
    /// Only connections for flows have a datagram channel; only pair connections have a bus.
    #[error("not that kind of connection")]
    WrongRole,
    /// The queue of this connection is full; the item was dropped and counted.
    #[error("queue full")]
    Full,
    /// Larger than the format can carry.
    #[error("too large")]
    TooLarge,
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// Why something was dropped. Each is one counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason {
            /// A packet that breaks the overlay protocol.
            Wire(l4proxy_wire::DropReason),
            $($(#[$doc])* $variant,)+
        }

        impl DropReason {
            /// The name in metrics and logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Wire(reason) => reason.as_str(),
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// A channel packet that overtook its sender's `HELLO`.
    ChannelEarly = "channel_early",
    /// Sent before the peer's `HELLO`, and the place for such packets was full.
    ChannelHeldFull = "channel_held_full",
    /// The packets of one connection that wait for transmission were too many.
    ChannelQueueFull = "channel_queue_full",
    /// A bundle of frames that QUIC would not carry in one of its own.
    QuicFramesRefused = "quic_frames_refused",
    /// The key of a channel has sealed as many packets as it may, and no connection has followed.
    ChannelExhausted = "channel_exhausted",
    /// A fragment that contradicts the ones before it.
    FragmentInvalid = "fragment_invalid",
    /// A fragment that came twice.
    FragmentDuplicate = "fragment_duplicate",
    /// An incomplete frame that had to make room for a newer one.
    FragmentTableFull = "fragment_table_full",
    /// An incomplete frame whose rest did not come in time.
    FragmentExpired = "fragment_expired",
    /// A repair that came when more than one of its packets was missing.
    RepairTooFew = "repair_too_few",
    /// A repair that gave no packet of a connection.
    RepairInvalid = "repair_invalid",
    /// QUIC from a PoP that is not a peer.
    QuicUnknownPeer = "quic_unknown_peer",
    /// QUIC that belongs to no connection and opens none.
    QuicUnmatched = "quic_unmatched",
    /// A peer's connection beyond the bound of connections or handshakes.
    QuicIncomingFull = "quic_incoming_full",
    /// QUIC while there is no identity.
    QuicNoIdentity = "quic_no_identity",
    /// An answer to a packet of no connection, when too many of them waited.
    QuicResponseFull = "quic_response_full",
    /// A stream beyond those that may wait to be opened.
    StreamsFull = "streams_full",
    /// A control message that did not fit its queue.
    BusFull = "bus_full",
    /// A control message for a peer without a pair connection.
    BusNoConnection = "bus_no_connection",
}

impl From<l4proxy_wire::DropReason> for DropReason {
    fn from(reason: l4proxy_wire::DropReason) -> Self {
        Self::Wire(reason)
    }
}
