//! The congestion controller: the library's BBRv3, kept warm while a connection has little to send.
//!
//! A warm window is worth more than a better route, and most connections between PoPs carry a trickle (keep-alives,
//! somebody typing, a game) between bursts. BBR learns a path's bandwidth from what it delivers and must not learn from
//! times when there was nothing more to deliver, which it calls application-limited. The library's does, in two ways:
//!
//! - The note that ends one such time is taken as the end of all of them, so that less than one packet a round trip counts
//!   as busy every other time. After a minute of it 100 kB took 8 s over a path of 180 ms; a cold connection needs 0.1.
//! - Every five seconds it shrinks the window to a few packets to measure the round trip. A trickle that fills these looks
//!   as if it were all that the path can carry. After 30 s of 30 kB/s, 100 kB took 2.4 s.
//!
//! So while acknowledgements say that there was nothing more to send, the note is renewed, and the window is not below
//! the one of a new connection. Both end with the first acknowledgement that finds the connection busy, and losses that
//! come while it is busy, or that hit everything, suspend the second for a while.
//!
//! The controller is the only one whom the library tells what becomes of each packet. It writes that into the ledger from which
//! `resend` knows what a path that died has swallowed, and takes no such loss for a word about the path that came after it.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use noq_proto::RttEstimator;
use noq_proto::congestion::{Bbr3Config, Controller, ControllerFactory, ControllerMetrics};

use crate::resend::SharedLedger;

/// What a new connection may send in its first round trip, and a warm one after a pause: 100 kB over 180 ms take 190 ms
/// with it instead of 724.
const INITIAL_WINDOW: u64 = 140_000;

/// A path that lost packets while it was busy is not sent a whole initial window for so long.
const CAUTION: Duration = Duration::from_secs(10);

/// Makes a controller for each new connection.
#[derive(Debug)]
pub(crate) struct ControllerConfig {
    bbr: Arc<Bbr3Config>,
    /// The ledger of the controller that was made last: the library has no other way to hand out what belongs to it.
    newest: Mutex<SharedLedger>,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        let mut bbr = Bbr3Config::default();
        bbr.initial_window(INITIAL_WINDOW);
        Self { bbr: Arc::new(bbr), newest: Mutex::default() }
    }
}

impl ControllerConfig {
    /// The ledger of the connection that was made just now.
    pub(crate) fn newest_ledger(&self) -> SharedLedger {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ControllerFactory for ControllerConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let bbr = Arc::clone(&self.bbr).build(now, current_mtu);
        let ledger = SharedLedger::default();
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = ledger.clone();
        Box::new(WarmController {
            bbr,
            is_app_limited: false,
            cautious_until: None,
            has_floor: false,
            ledger,
        })
    }
}

/// The library's controller, and what it is told differently.
#[derive(Debug)]
struct WarmController {
    bbr: Box<dyn Controller>,
    /// The newest acknowledgement found the connection with nothing more to send.
    is_app_limited: bool,
    /// Losses are taken seriously until then.
    cautious_until: Option<Instant>,
    /// The window is at least the initial one.
    has_floor: bool,
    ledger: SharedLedger,
}

impl WarmController {
    /// Whether a packet went out over a path that has died since.
    fn is_of_dead_path(&self, number: u64) -> bool {
        self.ledger.lock().last_before.is_some_and(|last| number <= last)
    }
}

impl Controller for WarmController {
    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.bbr.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        if app_limited {
            // The first call may have ended an older note instead of making a new one. For everything else a second call
            // with the same arguments says nothing new.
            self.bbr.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        }
        self.is_app_limited = app_limited;
        self.cautious_until.take_if(|until| *until <= now);
        self.has_floor = app_limited && self.cautious_until.is_none();
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        if self.is_of_dead_path(largest_lost_pn) {
            return;
        }
        // A trickle does not cause the losses that it suffers.
        if !self.is_app_limited || is_persistent_congestion {
            self.cautious_until = Some(now + CAUTION);
            self.has_floor = false;
        }
        self.bbr.on_congestion_event(
            now,
            sent,
            is_persistent_congestion,
            is_ecn,
            lost_bytes,
            largest_lost_pn,
        );
    }

    fn window(&self) -> u64 {
        let window = self.bbr.window();
        if self.has_floor { window.max(INITIAL_WINDOW) } else { window }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { bbr: self.bbr.clone_box(), ledger: self.ledger.clone(), ..*self })
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.ledger.lock().sent.push(pn);
        self.bbr.on_packet_sent(now, bytes, pn);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.ledger.lock().settled.push(pn);
        self.bbr.on_ack(now, sent, bytes, pn, app_limited, rtt);
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.ledger.lock().settled.push(pn);
        // It must be told, or it would keep the packet's entry for ever; then it is told that this was no loss after all.
        self.bbr.on_packet_lost(lost_bytes, pn, now);
        if self.is_of_dead_path(pn) {
            self.bbr.on_spurious_congestion_event();
        }
    }

    // The rest is handed on as it is.

    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.bbr.on_sent(now, bytes, largest_pn);
    }

    fn on_cwnd_limited(&mut self) {
        self.bbr.on_cwnd_limited();
    }

    fn on_spurious_congestion_event(&mut self) {
        self.bbr.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.bbr.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(&mut self, ack_eliciting_threshold: u64, requested_max_ack_delay: Duration) {
        self.bbr.on_ack_frequency_update(ack_eliciting_threshold, requested_max_ack_delay);
    }

    fn metrics(&self) -> ControllerMetrics {
        self.bbr.metrics()
    }

    fn initial_window(&self) -> u64 {
        self.bbr.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    fn controller() -> (Instant, Box<dyn Controller>) {
        let now = Instant::now();
        (now, Arc::new(ControllerConfig::default()).build(now, 1350))
    }

    /// Brings the inner controller's window to its minimum.
    fn lose_everything(controller: &mut dyn Controller, now: Instant) {
        controller.on_congestion_event(now, now, true, false, 1350, 0);
    }

    #[test]
    fn a_new_connection_begins_with_the_initial_window() {
        let (_, controller) = controller();
        assert_eq!(controller.window(), INITIAL_WINDOW);
        assert_eq!(controller.initial_window(), INITIAL_WINDOW);
    }

    #[test]
    fn losing_everything_suspends_the_floor_for_a_while() {
        let (now, mut controller) = controller();
        lose_everything(&mut *controller, now);
        assert!(controller.window() < 10_000);
        let later = now + CAUTION - Duration::from_millis(1);
        controller.on_end_acks(later, 0, true, Some(1));
        assert!(controller.window() < 10_000);
        controller.on_end_acks(now + CAUTION, 0, true, Some(2));
        assert_eq!(controller.window(), INITIAL_WINDOW);
        assert_eq!(controller.clone_box().window(), INITIAL_WINDOW);
        // The first acknowledgement of a busy connection ends it.
        controller.on_end_acks(now + CAUTION, 50_000, false, Some(3));
        assert!(controller.window() < 10_000);
    }

    #[test]
    fn only_losses_of_a_busy_connection_count() {
        let (now, mut controller) = controller();
        lose_everything(&mut *controller, now);
        let later = now + CAUTION;
        controller.on_end_acks(later, 0, true, Some(1));
        controller.on_congestion_event(later, later, false, false, 1350, 2);
        assert_eq!(controller.window(), INITIAL_WINDOW);
        controller.on_end_acks(later, 50_000, false, Some(3));
        controller.on_congestion_event(later, later, false, false, 1350, 4);
        controller.on_end_acks(later, 0, true, Some(5));
        assert!(controller.window() < 10_000);
    }
}
