//! The congestion controller behind the library's `Controller`: it hands what it is told to [`model::Model`], which decides.
//!
//! | module | what |
//! | --- | --- |
//! | `carried` | what the path has carried, for those who come after |
//! | `delivery` | how fast packets arrive |
//! | `losses` | whose fault losses are |
//! | `model` | what the path carries, and so how fast to send |
//! | `sim`, `experiments` | senders that share a link, in virtual time; tests only |
//!
//! The controller is the only one whom the library tells what becomes of each packet. It writes that into the ledger from which
//! `resend` knows what a path that died has swallowed, and takes no such loss for a word about the path that came after it. The ledger
//! is also how it is told of another path.

mod carried;
mod delivery;
#[cfg(test)]
mod experiments;
mod losses;
mod model;
#[cfg(test)]
mod sim;

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use noq_proto::RttEstimator;
use noq_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use self::carried::Carried;
pub use self::carried::Measured;
pub use self::model::PathHint;
use self::model::{INITIAL_WINDOW, Model};
use crate::resend::SharedLedger;

/// Makes a controller for each new connection.
#[derive(Debug, Default)]
pub(crate) struct ControllerConfig {
    /// What the next connection's path is known for, and the ledger of the controller that was made last: the library has no other way
    /// to hand in or out what belongs to a connection.
    next: Mutex<(PathHint, SharedLedger)>,
}

impl ControllerConfig {
    /// What is known of the path of the connection that is made next.
    pub(crate) fn expect(&self, hint: PathHint) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).0 = hint;
    }

    /// The ledger of the connection that was made just now.
    pub(crate) fn newest_ledger(&self) -> SharedLedger {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

impl ControllerFactory for ControllerConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let ledger = SharedLedger::default();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.1 = ledger.clone();
        let model = Model::new(now, current_mtu, std::mem::take(&mut next.0));
        Box::new(PathController {
            model,
            ledger,
            carried: Carried::default(),
            old_until: 0,
            left_until: 0,
            is_old: true,
            packet_size: current_mtu,
        })
    }
}

/// One connection's controller.
#[derive(Debug, Clone)]
struct PathController {
    model: Model,
    ledger: SharedLedger,
    carried: Carried,
    /// Packets below this number went out over a path that has died since.
    old_until: u64,
    /// And those below this one over a path that was left, and arrive there.
    left_until: u64,
    /// The acknowledgement that is being read names only such packets so far.
    is_old: bool,
    /// The largest packet that carries data.
    packet_size: u16,
}

impl PathController {
    /// Takes note of a path change that the caller has been told of.
    fn follow(&mut self, now: Instant) {
        let mut ledger = self.ledger.lock();
        if let Some(hint) = ledger.path_change.take() {
            self.old_until = ledger.last_before.map_or(0, |last| last + 1);
            ledger.measured = None;
            if ledger.is_planned {
                self.left_until = self.old_until;
            }
            drop(ledger);
            self.carried.restart();
            self.model.on_path_change(now, hint);
        }
    }
}

impl Controller for PathController {
    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.follow(now);
        if bytes > self.packet_size {
            // A probe for a larger size: what becomes of it is not told when it is lost, and it says nothing of rates.
            return;
        }
        self.ledger.lock().sent.push(pn);
        self.model.on_sent(now, pn, u64::from(bytes));
    }

    fn on_ack(
        &mut self,
        now: Instant,
        _sent: Instant,
        bytes: u64,
        pn: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.ledger.lock().settled.push(pn);
        self.is_old &= pn < self.old_until;
        if pn >= self.old_until {
            self.carried.on_acked(bytes);
        }
        if pn < self.left_until {
            // It says nothing of how fast packets arrive over the path that is taken now.
            self.model.on_lost(pn, true);
        } else {
            self.model.on_acked(now, pn);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        _in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.follow(now);
        self.model.on_end_of_acks(now, app_limited, self.is_old);
        let is_limited = app_limited || !self.model.knows_path();
        if let Some(measured) = self.carried.on_end_of_acks(now, is_limited, self.model.bandwidth()) {
            self.ledger.lock().measured = Some(measured);
        }
        self.is_old = true;
        let mut ledger = self.ledger.lock();
        (ledger.is_dry, ledger.repair_covers) = (app_limited, self.model.repair_covers());
    }

    fn on_packet_lost(&mut self, _lost_bytes: u16, pn: u64, _now: Instant) {
        self.ledger.lock().settled.push(pn);
        self.model.on_lost(pn, pn < self.old_until);
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        is_ecn: bool,
        _lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        if largest_lost_pn < self.old_until {
            return;
        }
        if is_persistent_congestion {
            self.model.on_silence();
        } else if is_ecn {
            self.model.on_congestion_mark();
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.packet_size = new_mtu;
        self.model.on_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.model.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.model.window();
        metrics.pacing_rate = Some(self.model.pacing_rate());
        metrics.bandwidth_estimate = Some(self.model.bandwidth() * 8);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
