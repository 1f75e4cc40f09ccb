//! Pure state machines of the data plane. Time is an argument; no socket, clock or randomness.
//!
//! | module | decides |
//! | --- | --- |
//! | [`forward`] | what happens to a packet with an outer header: forward, deliver, or drop with a reason |
//! | [`keys`] | which hop and probe keys are in force with which peer |
//! | [`liveness`] | which paths of a handle are alive, from hellos |
//! | [`probe`] | when a link is probed, and what the answers mean |
//! | [`relay`] | what a TCP relay does next in one direction, including half-close |
//! | [`sessions`] | the table of UDP sessions: classes, caps, eviction, idle expiry |
//! | [`timers`] | deadlines of many things on one worker |

pub mod forward;
pub mod keys;
pub mod liveness;
pub mod probe;
pub mod relay;
mod sequence;
pub mod sessions;
pub mod timers;
