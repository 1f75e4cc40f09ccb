//! What an epoll event is about, packed into the 64 bits that the kernel gives back.
//!
//! Numbers are used again; the generation tells an event for a socket that was closed earlier in the same turn from one for its successor.

/// One registered descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// The worker's waker.
    Waker,
    /// A TCP listener, by its number.
    TcpListener(u32),
    /// A UDP listener, by its number.
    UdpListener(u32),
    /// An overlay socket, by its number.
    Overlay(u32),
    /// The client's socket of a TCP flow.
    TcpClient(Slot),
    /// The origin's socket of a TCP flow.
    TcpOrigin(Slot),
    /// One of several sockets of a TCP flow towards its origin, while none of them is connected.
    TcpRace(Slot),
    /// The origin's socket of a UDP session whose client came here.
    UdpIngress(Slot),
    /// The origin's socket of a UDP session of a peer.
    UdpEgress(Slot),
    /// A balancer's connection whose header has not come whole.
    TcpGreeting(Slot),
}

/// A place in a slab, and which of its tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The number.
    pub(crate) number: u32,
    /// Only the low 24 bits travel: a number is never used 16 million times within one turn.
    pub(crate) generation: u32,
}

const KIND_SHIFT: u32 = 56;
const GENERATION_SHIFT: u32 = 32;
const GENERATION_MASK: u32 = 0x00ff_ffff;

impl Slot {
    /// Whether this is the tenant of that generation.
    pub(crate) const fn is_of(self, generation: u32) -> bool {
        (self.generation ^ generation) & GENERATION_MASK == 0
    }
}

impl Token {
    /// For the kernel.
    pub(crate) fn pack(self) -> u64 {
        let (kind, number, generation) = match self {
            Self::Waker => (0, 0, 0),
            Self::TcpListener(number) => (1, number, 0),
            Self::UdpListener(number) => (2, number, 0),
            Self::Overlay(number) => (3, number, 0),
            Self::TcpClient(slot) => (4, slot.number, slot.generation),
            Self::TcpOrigin(slot) => (5, slot.number, slot.generation),
            Self::UdpIngress(slot) => (6, slot.number, slot.generation),
            Self::UdpEgress(slot) => (7, slot.number, slot.generation),
            Self::TcpRace(slot) => (8, slot.number, slot.generation),
            Self::TcpGreeting(slot) => (9, slot.number, slot.generation),
        };
        kind << KIND_SHIFT | u64::from(generation & GENERATION_MASK) << GENERATION_SHIFT | u64::from(number)
    }

    /// From the kernel. None: nothing that this process has registered.
    pub(crate) fn unpack(bits: u64) -> Option<Self> {
        let number = bits as u32;
        let slot = Slot { number, generation: (bits >> GENERATION_SHIFT) as u32 & GENERATION_MASK };
        Some(match bits >> KIND_SHIFT {
            0 => Self::Waker,
            1 => Self::TcpListener(number),
            2 => Self::UdpListener(number),
            3 => Self::Overlay(number),
            4 => Self::TcpClient(slot),
            5 => Self::TcpOrigin(slot),
            6 => Self::UdpIngress(slot),
            7 => Self::UdpEgress(slot),
            8 => Self::TcpRace(slot),
            9 => Self::TcpGreeting(slot),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_comes_back_as_it_went() {
        let slot = Slot { number: u32::MAX, generation: GENERATION_MASK };
        let tokens = [
            Token::Waker,
            Token::TcpListener(1),
            Token::UdpListener(u32::MAX),
            Token::Overlay(3),
            Token::TcpClient(slot),
            Token::TcpOrigin(slot),
            Token::UdpIngress(slot),
            Token::UdpEgress(slot),
            Token::TcpRace(slot),
        ];
        for token in tokens {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }

    #[test]
    fn a_generation_is_compared_by_the_bits_that_travel() {
        let slot = Slot { number: 1, generation: 5 };
        assert!(slot.is_of(5) && slot.is_of(5 + (1 << 24)) && !slot.is_of(6));
    }
}
