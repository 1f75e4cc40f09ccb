//! A flow that may not go as fast as it could: when it reads, when it waits, and what its timer has to know.

use std::time::Instant;

use l4proxy_proto::relay::Way;

use super::Flow;
use crate::admission::bandwidth::Allowance;
use crate::counters::AppValue;
use crate::turn::Turn;

impl Flow {
    /// Whether it has begun to wait for its rate, and its timer does not know yet.
    pub(crate) fn has_begun_to_wait(&mut self) -> bool {
        self.throttle.as_mut().is_some_and(|throttle| throttle.take_news())
    }

    /// Let the directions go on that have waited long enough for their rate; whether there is one.
    pub(crate) fn end_wait(&mut self, now: Instant) -> bool {
        let Some(throttle) = &mut self.throttle else { return false };
        let mut has_any = false;
        for way in throttle.take_ready(now) {
            self.relay.lane_mut(way).on_source_ready(false);
            has_any = true;
        }
        has_any
    }

    /// How many bytes may be read now; None: the direction waits for its rate, and the timer wakes it.
    pub(super) fn allowance(&mut self, way: Way, limit: usize, turn: &Turn<'_>) -> Option<usize> {
        let Some(throttle) = &mut self.throttle else { return Some(limit) };
        match throttle.allowance(way, limit, turn.now) {
            Allowance::Read(limit) => return Some(limit),
            Allowance::BeginsToWait => turn.count_app(&self.meta.app, AppValue::BandwidthWaits, 1),
            Allowance::Waits => {}
        }
        self.relay.lane_mut(way).on_read_blocked();
        None
    }

    /// Bytes were read: tell the direction, and the rate.
    pub(super) fn on_read(&mut self, way: Way, bytes: usize, exhausted: bool, now: Instant) {
        self.relay.lane_mut(way).on_read(bytes, exhausted);
        if let Some(throttle) = &mut self.throttle {
            throttle.charge(way, bytes, now);
        }
    }
}
