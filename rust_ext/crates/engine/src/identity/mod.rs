//! Who the client is: what origins are told of it, and what balancers in front tell us.
//!
//! | module | what |
//! | --- | --- |
//! | `stream` | the header that a TCP origin reads before the client's first byte |
//! | `datagrams` | the header before datagrams to a UDP origin, when it is told again, and what comes off its answers |
//! | `greeting` | TCP connections of balancers: the header that they must begin with |
//! | `heard` | datagrams of balancers: the header that each must begin with |
//!
//! The encodings are `wire::proxy` and `wire::spp`. The PoP that dials the origin speaks to it; the client's address comes to that
//! PoP in OPEN. A balancer's word counts like the kernel's: for limits, access lists, records, and for what the origin is told.

pub(crate) mod datagrams;
pub(crate) mod greeting;
pub(crate) mod heard;
pub(crate) mod stream;

use std::net::IpAddr;

use l4proxy_wire::proxy::Rejected;

use crate::app::App;
use crate::counters::Dropped;

/// Whether the app's clients come through balancers, and nobody else may come.
pub(crate) fn has_balancers(app: &App) -> bool {
    !app.policy.accept_from.is_empty()
}

/// Whether the word of this address about a client is taken.
fn is_trusted(app: &App, address: IpAddr) -> bool {
    let address = address.to_canonical();
    app.policy.accept_from.iter().any(|prefix| prefix.contains(address))
}

/// What bytes that are no header are counted as.
const fn dropped_by(reason: Rejected) -> Dropped {
    match reason {
        Rejected::Signature => Dropped::BadProxySignature,
        Rejected::Version => Dropped::BadProxyVersion,
        Rejected::Command => Dropped::BadProxyCommand,
        Rejected::Family => Dropped::BadProxyFamily,
        Rejected::Length => Dropped::BadProxyLength,
        Rejected::Line => Dropped::BadProxyLine,
        Rejected::Address => Dropped::BadProxyAddress,
        Rejected::Tlv => Dropped::BadProxyTlv,
        Rejected::Checksum => Dropped::BadProxyChecksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_counted_under_its_own_name() {
        for &reason in Rejected::ALL {
            assert_eq!(dropped_by(reason).as_str(), format!("bad_proxy_header_{reason}"));
        }
    }
}
