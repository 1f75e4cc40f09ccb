//! What another PoP may have dialled here: nothing but origins of this PoP's own configuration, at ports that follow from its own
//! listeners. What the peer says of client and flow is passed on, never acted upon.

use std::net::SocketAddr;
use std::sync::Arc;

use l4proxy_wire::codes::Reason;
use l4proxy_wire::open;

use crate::app::App;
use crate::compile::Tables;
use crate::counters::Dropped;
use crate::snapshot::Protocol;

/// An origin that may be dialled for a peer.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) app: Arc<App>,
    /// Index into the app's origins.
    pub(crate) origin: usize,
    pub(crate) protocol: Protocol,
    /// Where the client came to; one of the app's listeners.
    pub(crate) listener: SocketAddr,
}

/// Why not: for the peer, and for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) reason: Reason,
    pub(crate) counted: Dropped,
}

/// What an OPEN asks for, whether it came on a stream or in a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) app: &'a str,
    pub(crate) origin: &'a str,
    pub(crate) protocol: Protocol,
    pub(crate) listener: SocketAddr,
}

impl<'a> Request<'a> {
    /// From an OPEN that still stands in its frame.
    pub(crate) fn of(open: &open::Open<'a>) -> Self {
        let protocol = match open.protocol {
            open::Protocol::Tcp => Protocol::Tcp,
            open::Protocol::Udp => Protocol::Udp,
        };
        Self { app: open.app, origin: open.origin, protocol, listener: open.listener }
    }
}

/// Look a request up in the snapshot in force.
pub(crate) fn grant(tables: &Tables, request: &Request<'_>) -> Result<Granted, Denied> {
    let denied = |reason, counted| Err(Denied { reason, counted });
    let Some(app) = tables.app(request.app) else {
        return denied(Reason::UnknownApp, Dropped::EgressUnknownApp);
    };
    let Some(index) = app.origins.iter().position(|origin| origin.name == request.origin) else {
        return denied(Reason::UnknownOrigin, Dropped::EgressUnknownOrigin);
    };
    if !app.admits_egress {
        return denied(Reason::Denied, Dropped::EgressDenied);
    }
    let (protocol, listener) = (request.protocol, request.listener);
    match app.offset(protocol, listener) {
        Some(_) => Ok(Granted { app: app.clone(), origin: index, protocol, listener }),
        None => denied(Reason::Denied, Dropped::EgressDenied),
    }
}
