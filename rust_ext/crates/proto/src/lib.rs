//! Pure state machines of the data plane. Time is an argument; no socket, clock or randomness.
//!
//! | module | decides |
//! | --- | --- |
//! | [`access`] | who may come: the longest prefix of a client's address decides |
//! | [`bindings`] | which number in which channel means which UDP session, at both ends of a tunnel |
//! | [`choice`] | which of its paths a route handle takes, by what is known of them |
//! | [`coalescing`] | when a bulk flow is looked at by the clock instead of being told of every segment |
//! | [`forward`] | what happens to a packet with an outer header: forward, deliver, or drop with a reason |
//! | [`keys`] | which hop and probe keys are in force with which peer |
//! | [`link_down`] | who is told that a link of ours is lost, and what is passed on of what we are told |
//! | [`liveness`] | which paths of a handle are alive, from hellos |
//! | [`moderation`] | when a busy worker pauses, so that one wake-up brings several datagrams |
//! | [`origin_guard`] | which addresses a name may not lead to |
//! | [`origin_order`] | in which order a flow tries an origin's addresses |
//! | [`probe`] | when a link is probed, and what the answers mean |
//! | [`race`] | when the next of several addresses is tried beside those that have not answered |
//! | [`rate`] | how much in how little time: token buckets, one for each of many sources |
//! | [`relay`] | what a TCP relay does next in one direction, including half-close |
//! | [`sessions`] | the table of UDP sessions: classes, caps, eviction, idle expiry |
//! | [`source_pool`] | which address of a pool a client is seen from |
//! | [`timers`] | deadlines of many things on one worker |
//! | [`whereabouts`] | where a PoP behind NAT is now |

pub mod access;
pub mod bindings;
pub mod choice;
pub mod coalescing;
pub mod forward;
pub mod keys;
pub mod link_down;
pub mod liveness;
pub mod moderation;
pub mod origin_guard;
pub mod origin_order;
pub mod probe;
pub mod race;
pub mod rate;
pub mod relay;
mod sequence;
pub mod sessions;
pub mod source_pool;
pub mod timers;
pub mod whereabouts;
