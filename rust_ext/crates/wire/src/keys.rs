//! Hop keys and probe keys: the SipHash-2-4 tag made with them, and how both ends take them from a TLS exporter (section 3).
//!
//! Keys are wiped when dropped and never printed. Which key is in force with whom is `proto::keys`.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;
use zeroize::Zeroize;

/// Length of a hop or probe key, in bytes: SipHash takes 128 bits.
pub const KEY_LENGTH: usize = 16;

/// Length of a tag, in bytes: SipHash gives 64 bits.
pub const TAG_LENGTH: usize = 8;

/// Exporter label of a pair connection.
pub const PAIR_EXPORTER_LABEL: &[u8] = b"EXPORTER-l4proxy-pair-v1";

/// How much a pair connection exports, in bytes: four keys and the epoch.
pub const PAIR_EXPORTER_LENGTH: usize = 4 * KEY_LENGTH + 1;

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name([u8; KEY_LENGTH]);

        impl $name {
            /// Takes a key as it is.
            pub const fn new(bytes: [u8; KEY_LENGTH]) -> Self {
                Self(bytes)
            }

            /// The tag of the parts, as if they stood one after the other: SipHash-2-4, big-endian.
            pub fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_LENGTH] {
                let mut hasher = SipHasher24::new_with_key(&self.0);
                for part in parts {
                    hasher.write(part);
                }
                hasher.finish().to_be_bytes()
            }

            /// Whether `tag` is the tag of the parts. Takes the same time whichever byte differs.
            pub fn verify(&self, parts: &[&[u8]], tag: [u8; TAG_LENGTH]) -> bool {
                // One comparison of whole words: there is no first differing byte to tell by timing.
                u64::from_ne_bytes(self.tag(parts)) ^ u64::from_ne_bytes(tag) == 0
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.zeroize();
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }
    )*};
}

keys! {
    /// Authenticates outer headers between two neighbours of a path, in one direction.
    HopKey;
    /// Authenticates probes and hellos of one PoP to another.
    ProbeKey;
}

/// The low four bits of a key's number, which stand in packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u8);

impl Epoch {
    /// Keeps the low four bits.
    pub const fn new(number: u8) -> Self {
        Self(number & 0x0f)
    }

    /// A value of 0..=15.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Which end of a pair connection this PoP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It dialled.
    Client,
    /// It was dialled.
    Server,
}

/// What one pair connection gives one of its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairKeys {
    /// For outer headers that we send to the peer as the next hop.
    pub hop_send: HopKey,
    /// For outer headers that come from the peer as the previous hop.
    pub hop_receive: HopKey,
    /// For probes and hellos that we send to the peer.
    pub probe_send: ProbeKey,
    /// For probes and hellos of the peer.
    pub probe_receive: ProbeKey,
    /// Stands in all packets made with these keys.
    pub epoch: Epoch,
}

impl PairKeys {
    /// Splits what the exporter gave; both ends see the same bytes and take opposite directions.
    pub fn from_exported(exported: &[u8; PAIR_EXPORTER_LENGTH], side: Side) -> Self {
        let key = |index: usize| {
            let mut bytes = [0; KEY_LENGTH];
            bytes.copy_from_slice(&exported[index * KEY_LENGTH..][..KEY_LENGTH]);
            bytes
        };
        let (send, receive) = match side {
            Side::Client => (0, 1),
            Side::Server => (1, 0),
        };
        Self {
            hop_send: HopKey::new(key(send)),
            hop_receive: HopKey::new(key(receive)),
            probe_send: ProbeKey::new(key(2 + send)),
            probe_receive: ProbeKey::new(key(2 + receive)),
            epoch: Epoch::new(exported[PAIR_EXPORTER_LENGTH - 1]),
        }
    }
}
