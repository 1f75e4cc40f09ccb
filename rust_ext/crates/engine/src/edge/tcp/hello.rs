//! The server name of a flow whose TLS passes through, for its record: read beside the relay from copies of the client's first bytes.

use l4proxy_wire::client_hello::{ClientHelloReader, ServerName};

use super::ends::End;
use crate::records::FlowMeta;

/// How far the search is. It is over after the first byte of anything that is not TLS.
#[derive(Debug)]
pub(super) enum Sniffer {
    /// Nothing has been read.
    Fresh,
    /// It has begun like TLS.
    Reading(Box<ClientHelloReader>),
    /// It is known, or never will be.
    Done,
}

impl Sniffer {
    /// For a new flow; where TLS ends here, its session knows the name.
    pub(super) fn new(client: &End, meta: &FlowMeta) -> Self {
        let ends_here = matches!(client, End::Tls(_)) || meta.app.policy.tls.is_some();
        if ends_here { Self::Done } else { Self::Fresh }
    }

    /// Look at the client's next bytes.
    pub(super) fn look(&mut self, bytes: &[u8], meta: &mut FlowMeta) {
        if matches!(self, Self::Done) {
            return;
        }
        if matches!(self, Self::Fresh) {
            *self =
                if ClientHelloReader::may_begin(bytes) { Self::Reading(Box::default()) } else { Self::Done };
        }
        let Self::Reading(reader) = self else { return };
        match reader.read(bytes) {
            ServerName::Unknown => return,
            ServerName::Named(name) => meta.server_name = Some(name.into()),
            ServerName::Absent => {}
        }
        *self = Self::Done;
    }
}
