//! The edge of one worker: clients on one side, origins on the other, and the overlay between two PoPs.
//!
//! | module | what |
//! | --- | --- |
//! | `dial` | which ways a new flow tries, in which order, for how long (pure) |
//! | `tcp` | TCP listeners, admission, the table of flows, their timers |
//! | `tcp_flow` | one TCP flow: its two ends and the relay between them |
//! | `pipes` | the worker's kernel pipes |
//! | `udp` | UDP listeners, sessions of clients, sessions of peers |
//! | `ending` | why a flow ends: codes, reasons, whose doing it was |

pub(crate) mod dial;
pub(crate) mod ending;
pub(crate) mod pipes;
pub(crate) mod tcp;
pub(crate) mod tcp_flow;
pub(crate) mod udp;
