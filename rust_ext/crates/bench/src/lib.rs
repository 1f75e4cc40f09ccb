//! The open-loop load generator behind `l4proxy bench`, and its other end.
//!
//! The rule that makes its figures honest: what is sent when is fixed before the first byte leaves, and latency counts from the moment a
//! message *should* have left. A generator that waits for a slow system before it sends the next message would measure only the
//! moments in which the system was well ("coordinated omission").
//!
//! - [`schedule`], [`sequence`], [`latency`]: pure. When to send, what came back, how long it took.
//! - [`rtt`], [`ping_pong`], [`throughput`], [`connect`]: the generators. [`reflect`]: the other end.
//! - [`floors`]: the least that a relay can do, to hold real ones against.
//! - [`mode`]: the header that tells a reflector what a TCP connection wants of it.
//!
//! The generators know nothing of proxies: the target is an address.

pub mod connect;
pub mod error;
pub mod floors;
pub mod latency;
pub mod mode;
pub mod ping_pong;
pub mod reflect;
pub mod rtt;
pub mod schedule;
pub mod sequence;
pub mod throughput;

mod clock;
mod pace;

pub use pace::Wait;

use std::sync::atomic::{AtomicBool, Ordering};

/// Ends a run early; share it with the thread that waits for Ctrl-C. What was measured so far is still reported.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Asks the run to end.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody has asked.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
