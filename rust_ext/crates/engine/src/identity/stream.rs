//! The header that a TCP origin reads before the client's first byte.

use l4proxy_wire::proxy::tlv::{self, Tlv};
use l4proxy_wire::proxy::{Endpoints, Transport, v1, v2};

use crate::policy::AnnounceTcp;
use crate::records::FlowMeta;

/// The header for a flow; None: its app's origins are not told, or see it from the client's address itself.
pub(crate) fn header(meta: &FlowMeta) -> Option<Vec<u8>> {
    let mut header = Vec::new();
    match meta.app.policy.announce_tcp {
        AnnounceTcp::Off | AnnounceTcp::Transparent => return None,
        AnnounceTcp::ProxyV1 => v1::encode(meta.client, meta.listener, &mut header),
        AnnounceTcp::ProxyV2 => put_v2(meta, &mut header),
    }
    Some(header)
}

/// App and flow travel with the addresses: `l4proxy flow list` and flow records know the flow by the same id.
fn put_v2(meta: &FlowMeta, header: &mut Vec<u8>) {
    let id = format!("{:016x}", meta.id);
    let tlvs = [
        Tlv { kind: tlv::UNIQUE_ID, value: id.as_bytes() },
        Tlv { kind: tlv::APP, value: meta.app.name.as_bytes() },
    ];
    let endpoints = Endpoints::Inet { source: meta.client, destination: meta.listener };
    let extras = v2::Extras { tlvs: &tlvs, checksum: true };
    v2::encode(endpoints, Transport::Stream, extras, header)
        .expect("a name of at most 255 bytes, checked with the snapshot, and an id of 16 fit a header");
}
