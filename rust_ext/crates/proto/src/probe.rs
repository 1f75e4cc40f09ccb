//! Probes of links: when each is sent, what the answers mean, and how requests are answered (`docs/protocol.md` section 7).
//!
//! [`Prober`] measures this PoP's outgoing links, [`Responder`] answers for the incoming ones. Packets and keys are the shell's:
//! it opens them with [`crate::keys::open_probe`] and hands over what was inside. Samples are only produced here; what they say
//! about a link is estimated by the control plane.

mod prober;
mod responder;

pub use prober::{ProbeLink, ProbeToSend, Prober, ProberCounters, Sample};
pub use responder::{IncomingLink, Responder};
