//! The numbers of section 9 and their names.

use crate::Malformed;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident($number:ty), $what:literal;
     $($(#[$variant_doc:meta])* $variant:ident = $value:literal $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $value,)*
        }

        impl $name {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number on the wire.
            pub const fn code(self) -> $number {
                self as $number
            }

            /// The name in records, events and counters.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl TryFrom<$number> for $name {
            type Error = Malformed;

            fn try_from(code: $number) -> Result<Self, Malformed> {
                match code {
                    $($value => Ok(Self::$variant),)*
                    _ => Err(Malformed { what: $what }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

codes! {
    /// Why a flow could not be opened, or has ended: OPEN_FAIL, REFUSED and CLOSE.
    Reason(u8), "reason";
    /// The origin refused the connection.
    Refused = 1 "refused",
    /// No way to the origin.
    Unreachable = 2 "unreachable",
    /// The origin did not answer in time.
    TimedOut = 3 "timed_out",
    /// The connection was reset.
    Reset = 4 "reset",
    /// The egress PoP has no app of that name.
    UnknownApp = 5 "unknown_app",
    /// The app has no such origin at the egress PoP.
    UnknownOrigin = 6 "unknown_origin",
    /// The egress PoP does not admit this, or the deny table forbids the address.
    Denied = 7 "denied",
    /// A limit of the egress PoP is reached.
    LimitReached = 8 "limit_reached",
    /// The egress PoP accepts nothing new.
    Draining = 9 "draining",
    /// Something went wrong at the egress PoP itself.
    LocalError = 10 "local_error",
    /// Nothing passed for the idle time.
    Idle = 11 "idle",
    /// The peer broke the protocol.
    ProtocolError = 12 "protocol_error",
    /// The origin was reached, and TLS with it failed.
    OriginTls = 13 "origin_tls_failed",
}

codes! {
    /// Application codes of RESET_STREAM and STOP_SENDING.
    StreamCode(u64), "stream code";
    /// The TCP peer sent RST.
    TcpReset = 1 "tcp_reset",
    /// The TCP connection timed out.
    TimedOut = 2 "timed_out",
    /// Nothing passed for the idle time.
    Idle = 3 "idle",
    /// The drain's deadline came.
    DrainDeadline = 4 "drain_deadline",
    /// Something went wrong at the sender itself.
    InternalError = 5 "internal_error",
    /// The peer broke the protocol.
    ProtocolError = 6 "protocol_error",
}

codes! {
    /// Application codes of CONNECTION_CLOSE.
    CloseCode(u64), "close code";
    /// Not needed any more.
    Done = 0 "done",
    /// The certificate is valid, its name is not the expected one.
    WrongIdentity = 1 "wrong_identity",
    /// The peer broke the protocol.
    ProtocolError = 2 "protocol_error",
    /// The sender is going away.
    ShuttingDown = 3 "shutting_down",
}
