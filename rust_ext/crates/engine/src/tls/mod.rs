//! TLS that ends at the edge: what the snapshot says of it, compiled once for all workers, and sessions over the sockets of flows.
//!
//! | module | what |
//! | --- | --- |
//! | `settings` | from the snapshot to configurations that sessions are made with |
//! | `certificates` | which certificate a client is shown |
//! | `origin` | whether an origin's certificate is good enough |
//! | `session` | one session over one socket: handshake, bytes, both ends of it |
//! | `fault` | what can go wrong, and how it is counted |
//!
//! The client's session lives at the PoP that the client came to, the origin's at the PoP that dials it: between PoPs, inside the
//! overlay's own encryption, go the plain bytes. So certificates are needed only where clients come in, and roots only where origins
//! are dialled. When the relay moves bytes is decided in `edge::tcp`, which sees a session as one more kind of end.

mod certificates;
mod fault;
mod origin;
mod session;
mod settings;

pub(crate) use fault::{SessionError, TlsFault};
pub(crate) use session::{Handshake, Plain, READ, Session};
pub(crate) use settings::{Tls, TlsKept};

use std::time::Duration;

/// What a client may take for its handshake; slower ones make room. Three round trips of a bad mobile link are far below.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
