//! What can go wrong with a session, by the name that stands in flow records and counters.

use std::io;

use rustls::Error;

use crate::counters::Dropped;

/// Why a session came to nothing or broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsFault {
    /// The other side does not speak TLS, nothing is common, or it went away in the handshake.
    Handshake,
    /// It did not finish the handshake in time.
    TimedOut,
    /// It has no certificate and must have one.
    NoCertificate,
    /// Its certificate is not good: expired, of another authority, or for another name.
    BadCertificate,
    /// It refused us, our certificate for instance.
    Alert,
    /// What it sent after the handshake was not what it must be.
    Broken,
    /// It ended the connection without saying that this is the end: somebody else may have cut the bytes off.
    Truncated,
}

impl TlsFault {
    /// What an error of the library means.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest is about messages and what they propose; more of these come with versions of the library"
    )]
    pub(super) fn of(error: &Error, is_established: bool) -> Self {
        if is_established {
            return Self::Broken;
        }
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(_) => Self::BadCertificate,
            Error::AlertReceived(_) => Self::Alert,
            _ => Self::Handshake,
        }
    }

    /// The record's word for a client.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "tls_handshake_failed",
            Self::TimedOut => "tls_timeout",
            Self::NoCertificate => "tls_no_certificate",
            Self::BadCertificate => "tls_bad_certificate",
            Self::Alert => "tls_alert",
            Self::Broken => "tls_broken",
            Self::Truncated => "tls_truncated",
        }
    }

    /// The record's word for an origin.
    pub(crate) const fn as_origins(self) -> &'static str {
        match self {
            Self::Handshake | Self::TimedOut | Self::NoCertificate => "origin_tls_failed",
            Self::BadCertificate => "origin_tls_certificate",
            Self::Alert => "origin_tls_alert",
            Self::Broken => "origin_tls_broken",
            Self::Truncated => "origin_tls_truncated",
        }
    }

    /// Whether it came to a session at all.
    pub(crate) const fn is_established(self) -> bool {
        matches!(self, Self::Broken | Self::Truncated)
    }

    /// What it is counted as when a client is to blame.
    pub(crate) const fn counted(self) -> Dropped {
        match self {
            Self::Handshake => Dropped::TlsHandshakeFailed,
            Self::TimedOut => Dropped::TlsTimeout,
            Self::NoCertificate => Dropped::TlsNoCertificate,
            Self::BadCertificate => Dropped::TlsBadCertificate,
            Self::Alert => Dropped::TlsAlert,
            Self::Broken => Dropped::TlsBroken,
            Self::Truncated => Dropped::TlsTruncated,
        }
    }

    /// What it is counted as when an origin is to blame.
    pub(crate) const fn counted_for_origin(self) -> Dropped {
        match self {
            Self::BadCertificate => Dropped::OriginTlsCertificate,
            Self::Handshake
            | Self::TimedOut
            | Self::NoCertificate
            | Self::Alert
            | Self::Broken
            | Self::Truncated => Dropped::OriginTlsFailed,
        }
    }
}

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// TLS itself failed.
    #[error("{}", .0.as_str())]
    Tls(TlsFault),
    /// The connection below failed.
    #[error(transparent)]
    Socket(#[from] io::Error),
}
