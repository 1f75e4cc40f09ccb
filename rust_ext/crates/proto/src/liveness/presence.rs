//! What a silence says of a whole peer, as distinct from one path to it: nothing yet, that new flows had better go elsewhere, that flows
//! which may move do, or that what it carried is lost. Thresholds only; for how long a peer has been out of touch is
//! [`Liveness::out_of_touch`](super::Liveness::out_of_touch)'s to say, and what follows is the engine's. Reasons: docs/decisions/0010.

use std::time::Duration;

use crate::liveness::SILENCE;

/// Flows that may move to another egress do. Longer than an outage of all paths that has to be survived in place (3 s), because an origin
/// that a flow has left does not know it any more; shorter than the patience of a game or a call.
pub const AWAY_AFTER: Duration = Duration::from_secs(4);

/// What the peer carried is given up. An outage of all paths is repaired within seconds or takes minutes: three times the one that must be
/// survived, and half of the time after which QUIC itself would give up.
pub const LOST_AFTER: Duration = Duration::from_secs(10);

/// What is thought of a peer; each goes further than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Presence {
    /// In touch, or nothing is known against it.
    #[default]
    Present,
    /// No path to it seems to work: as long as it takes to find one path dead. New flows go elsewhere if they can.
    Suspect,
    /// Flows that may move go elsewhere.
    Away,
    /// Flows that are bound to it are over.
    Lost,
}

impl Presence {
    /// Of a peer that has been out of touch for so long.
    #[must_use]
    pub fn after(out_of_touch: Duration) -> Self {
        match out_of_touch {
            silence if silence >= LOST_AFTER => Self::Lost,
            silence if silence >= AWAY_AFTER => Self::Away,
            silence if silence >= SILENCE => Self::Suspect,
            _ => Self::Present,
        }
    }

    /// As a number, for a cell that threads share.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// From [`Self::as_u8`].
    #[must_use]
    pub const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Present,
            1 => Self::Suspect,
            2 => Self::Away,
            _ => Self::Lost,
        }
    }
}
