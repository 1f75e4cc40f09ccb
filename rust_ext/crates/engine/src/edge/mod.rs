//! The edge of one worker: clients on one side, origins on the other, and the overlay between two PoPs.
//!
//! | module | what |
//! | --- | --- |
//! | `dial` | which ways a new flow tries, in which order, for how long (pure) |
//! | `reach` | one connect: whether the address may be dialled, and from which source |
//! | `tcp` | TCP listeners, admission, flows and the relay between their ends |
//! | `udp` | UDP listeners, sessions of clients, sessions of peers |
//! | `ending` | why a flow ends: codes, reasons, whose doing it was |

pub(crate) mod dial;
pub(crate) mod ending;
pub(crate) mod reach;
pub(crate) mod tcp;
pub(crate) mod udp;
