//! What a packet on the overlay port is, from its first byte (section 1). Looks no further.

use crate::DropReason;

/// First byte of a packet with an outer header.
pub const TYPE_OUTER: u8 = 0x08;
/// First byte of a packet of a datagram channel.
pub const TYPE_CHANNEL: u8 = 0x09;
/// First byte of a hello.
pub const TYPE_HELLO: u8 = 0x0a;
/// First byte of a probe.
pub const TYPE_PROBE: u8 = 0x0b;
/// First byte of a LINK_DOWN.
pub const TYPE_LINK_DOWN: u8 = 0x0c;

/// What the first byte announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketKind {
    /// QUIC version 1, long or short header.
    Quic,
    /// Outer header: see [`crate::outer`].
    Outer,
    /// Datagram channel: see [`crate::channel`].
    Channel,
    /// Hello: see [`crate::hello`].
    Hello,
    /// Probe: see [`crate::probe`].
    Probe,
    /// LINK_DOWN: see [`crate::link_down`].
    LinkDown,
}

/// Tells the kind of a packet.
///
/// # Errors
/// [`DropReason::UnknownType`] for any other first byte, and for an empty packet.
pub fn classify(packet: &[u8]) -> Result<PacketKind, DropReason> {
    match packet.first() {
        Some(0x40..=0x7f | 0xc0..=0xff) => Ok(PacketKind::Quic),
        Some(&TYPE_OUTER) => Ok(PacketKind::Outer),
        Some(&TYPE_CHANNEL) => Ok(PacketKind::Channel),
        Some(&TYPE_HELLO) => Ok(PacketKind::Hello),
        Some(&TYPE_PROBE) => Ok(PacketKind::Probe),
        Some(&TYPE_LINK_DOWN) => Ok(PacketKind::LinkDown),
        Some(_) | None => Err(DropReason::UnknownType),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_is_what_the_page_says() {
        for byte in 0..=u8::MAX {
            let expected = match byte {
                0x08 => Ok(PacketKind::Outer),
                0x09 => Ok(PacketKind::Channel),
                0x0a => Ok(PacketKind::Hello),
                0x0b => Ok(PacketKind::Probe),
                0x0c => Ok(PacketKind::LinkDown),
                _ if byte & 0x40 != 0 => Ok(PacketKind::Quic),
                _ => Err(DropReason::UnknownType),
            };
            assert_eq!(classify(&[byte, 0, 0]), expected, "first byte {byte:#04x}");
        }
        assert_eq!(classify(&[]), Err(DropReason::UnknownType));
    }
}
