//! The TOS byte of a datagram on its way through: DSCP in the high six bits, ECN in the low two. Pure.

/// What goes out for what came in: ECN as it came, since it is a word between the two ends; DSCP as it came, or as the app says.
pub(super) fn outgoing(dscp: Option<u8>, received: Option<u8>) -> u8 {
    let received = received.unwrap_or(0);
    match dscp {
        None => received,
        Some(dscp) => (dscp << 2) | (received & 0b11),
    }
}

/// A mark as a message takes it: none where the socket's own, which is zero, will do.
pub(super) const fn on_message(tos: u8) -> Option<u8> {
    if tos == 0 { None } else { Some(tos) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dscp_is_kept_or_the_apps_and_ecn_is_always_kept() {
        let rows = [
            (None, None, 0),
            (None, Some(0xb9), 0xb9),
            (None, Some(0x03), 0x03),
            (Some(46), None, 0xb8),
            (Some(46), Some(0x01), 0xb9),
            (Some(46), Some(0xff), 0xbb),
            (Some(0), Some(0xfe), 0x02),
            (Some(63), Some(0), 0xfc),
        ];
        for (dscp, received, expected) in rows {
            assert_eq!(outgoing(dscp, received), expected, "{dscp:?} {received:?}");
        }
    }
}
