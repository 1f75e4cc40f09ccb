//! PoPs and certificates that are no longer believed, whatever their CA says. Where the list comes from is the caller's business; what
//! follows from it is decided in `verifier` and [`Tunnels::end_revoked`](crate::Tunnels::end_revoked).

use std::collections::BTreeSet;

/// Names of PoPs, and serial numbers of certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    pops: BTreeSet<String>,
    serials: BTreeSet<Vec<u8>>,
}

impl Revoked {
    /// `serials` are big-endian; zeros in front do not matter.
    pub fn new(
        pops: impl IntoIterator<Item = String>,
        serials: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Self {
        Self {
            pops: pops.into_iter().collect(),
            serials: serials.into_iter().map(|serial| significant(serial.as_ref()).to_vec()).collect(),
        }
    }

    /// Whether every certificate of this PoP is revoked.
    #[must_use]
    pub fn has_pop(&self, pop: &str) -> bool {
        self.pops.contains(pop)
    }

    /// Whether the certificate with this number is revoked; big-endian, as DER has it.
    #[must_use]
    pub fn has_serial(&self, serial: &[u8]) -> bool {
        self.serials.contains(significant(serial))
    }
}

/// DER puts a zero in front of a number whose first bit is set; people leave zeros out.
fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|&&byte| byte == 0).count();
    &serial[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_the_same_number_with_and_without_zeros_in_front() {
        let revoked = Revoked::new([], [&[0, 0x9a, 1][..]]);
        assert!(revoked.has_serial(&[0x9a, 1]));
        assert!(revoked.has_serial(&[0, 0, 0x9a, 1]));
        assert!(!revoked.has_serial(&[0x9a, 1, 0]));
        assert!(!revoked.has_serial(&[]));
    }
}
