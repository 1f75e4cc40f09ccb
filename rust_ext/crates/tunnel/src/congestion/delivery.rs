//! How fast packets arrive: what each packet found when it was sent, and what has arrived since, give the rate at which the path
//! delivered in between (draft-ietf-ccwg-bbr, section 4.1). It measures; what follows from it is the business of `model`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Shorter intervals than this say nothing: clocks are not finer.
const SHORTEST: Duration = Duration::from_micros(10);

/// What a packet found when it was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) size: u64,
    pub(crate) sent_at: Instant,
    /// Bytes that had arrived, and when the newest of them had.
    pub(crate) delivered: u64,
    delivered_at: Instant,
    /// When the packet was sent whose arrival was the newest.
    first_sent_at: Instant,
    /// There was little to send: the path could have carried more.
    is_app_limited: bool,
    /// The round in which it was sent.
    pub(crate) round: u64,
    /// Bytes that were on their way when it was sent.
    in_flight: u64,
    number: u64,
}

/// What one acknowledgement says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Bytes a second; `None` when the interval is shorter than a round trip and says nothing.
    pub(crate) rate: Option<f64>,
    pub(crate) rtt: Duration,
    pub(crate) is_app_limited: bool,
    /// What had arrived when the packet was sent: the packet ends a round when that is beyond the round's end.
    pub(crate) prior_delivered: u64,
    /// Bytes that were on their way when the packet was sent.
    pub(crate) prior_in_flight: u64,
    /// The packet's number.
    pub(crate) number: u64,
}

/// The packets on their way, and what has become of the others.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    /// By number from `first`; `None`: gone, or never told of.
    packets: VecDeque<Option<Sent>>,
    first: u64,
    pub(crate) delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    pub(crate) in_flight: u64,
    /// Samples of packets sent before so much had arrived are application-limited.
    app_limited_until: u64,
    /// Of the packets that one acknowledgement names, the one sent last.
    newest: Option<Sent>,
}

impl Delivery {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            packets: VecDeque::new(),
            first: 0,
            delivered: 0,
            delivered_at: now,
            first_sent_at: now,
            in_flight: 0,
            app_limited_until: 0,
            newest: None,
        }
    }

    pub(crate) fn on_sent(&mut self, now: Instant, number: u64, size: u64, round: u64) {
        if self.in_flight == 0 {
            (self.delivered_at, self.first_sent_at) = (now, now);
        }
        if self.packets.is_empty() || number < self.first + self.packets.len() as u64 {
            // The handshake's packets have numbers of their own: what is left of them is not waited for.
            self.packets.clear();
            self.first = number;
        }
        while self.first + (self.packets.len() as u64) < number {
            self.packets.push_back(None);
        }
        let in_flight = self.in_flight;
        self.in_flight += size;
        self.packets.push_back(Some(Sent {
            number,
            in_flight,
            size,
            sent_at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            is_app_limited: self.app_limited_until > self.delivered,
            round,
        }));
    }

    fn take(&mut self, number: u64) -> Option<Sent> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let sent = self.packets.get_mut(place)?.take()?;
        while let Some(None) = self.packets.front() {
            self.packets.pop_front();
            self.first += 1;
        }
        self.in_flight = self.in_flight.saturating_sub(sent.size);
        Some(sent)
    }

    /// A packet has arrived. `None`: nothing is known of it.
    pub(crate) fn on_acked(&mut self, now: Instant, number: u64) -> Option<Sent> {
        let sent = self.take(number)?;
        self.delivered += sent.size;
        self.delivered_at = now;
        if self.newest.is_none_or(|newest| sent.sent_at >= newest.sent_at) {
            self.newest = Some(sent);
        }
        Some(sent)
    }

    /// A packet has not.
    pub(crate) fn on_lost(&mut self, number: u64) -> Option<Sent> {
        self.take(number)
    }

    /// The acknowledgement is complete. `is_dry`: there is nothing more to send. `None`: it named nothing that is known.
    pub(crate) fn on_end_of_acks(
        &mut self,
        now: Instant,
        is_dry: bool,
        min_rtt: Option<Duration>,
    ) -> Option<Sample> {
        if is_dry {
            self.app_limited_until = self.delivered + self.in_flight.max(1);
        }
        let newest = self.newest.take()?;
        // The next packets' interval of sending begins with this one.
        self.first_sent_at = newest.sent_at;
        let sending = newest.sent_at.saturating_duration_since(newest.first_sent_at);
        let arriving = now.saturating_duration_since(newest.delivered_at);
        let interval = sending.max(arriving);
        let is_long_enough = interval >= min_rtt.unwrap_or_default().max(SHORTEST);
        let rate =
            is_long_enough.then(|| (self.delivered - newest.delivered) as f64 / interval.as_secs_f64());
        Some(Sample {
            rate,
            rtt: now.saturating_duration_since(newest.sent_at),
            is_app_limited: newest.is_app_limited || is_dry,
            prior_delivered: newest.delivered,
            prior_in_flight: newest.in_flight,
            number: newest.number,
        })
    }

    /// Another path is taken: what arrived over the old one says nothing of it.
    pub(crate) fn restart(&mut self, now: Instant) {
        (self.delivered_at, self.first_sent_at) = (now, now);
        self.newest = None;
        self.app_limited_until = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    fn epoch() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_rate_is_what_arrived_while_a_packet_was_on_its_way() {
        let start = epoch();
        let mut delivery = Delivery::new(start);
        // A packet every millisecond, each acknowledged 20 ms later: 1 MB/s.
        let mut sample = None;
        for ms in 0..60u32 {
            let now = start + MS * ms;
            if ms >= 20 {
                assert!(delivery.on_acked(now, u64::from(ms) - 20).is_some());
                sample = delivery.on_end_of_acks(now, false, Some(MS * 20));
            }
            delivery.on_sent(now, u64::from(ms), 1000, 0);
        }
        let sample = sample.unwrap();
        assert_eq!(sample.rtt, MS * 20);
        assert!((sample.rate.unwrap() - 1_000_000.0).abs() < 60_000.0, "{sample:?}");
        assert!(!sample.is_app_limited);
        assert_eq!(delivery.in_flight, 20_000);
    }

    #[test]
    fn a_sender_with_nothing_to_send_is_not_taken_for_a_slow_path() {
        let start = epoch();
        let mut delivery = Delivery::new(start);
        for number in 0..10 {
            let now = start + Duration::from_millis(number * 100);
            delivery.on_sent(now, number, 1000, 0);
            delivery.on_acked(now + MS * 20, number);
            assert!(delivery.on_end_of_acks(now + MS * 20, true, None).unwrap().is_app_limited);
        }
        assert_eq!(delivery.in_flight, 0);
        delivery.on_sent(start + MS * 2000, 10, 1000, 0);
        delivery.on_acked(start + MS * 2020, 10);
        assert!(delivery.on_end_of_acks(start + MS * 2020, false, None).unwrap().is_app_limited);
    }

    #[test]
    fn lost_and_unknown_packets_count_for_nothing() {
        let start = epoch();
        let mut delivery = Delivery::new(start);
        delivery.on_sent(start, 0, 1000, 0);
        delivery.on_sent(start, 5, 1000, 0);
        assert!(delivery.on_lost(0).is_some() && delivery.on_lost(0).is_none());
        assert!(delivery.on_acked(start, 3).is_none() && delivery.on_acked(start, 9).is_none());
        assert!(delivery.on_end_of_acks(start, false, None).is_none());
        // Numbers that begin again are another space: what was before is not waited for.
        delivery.on_sent(start, 1, 1000, 0);
        assert!(delivery.on_acked(start, 5).is_none() && delivery.on_acked(start, 1).is_some());
        assert_eq!(delivery.delivered, 1000);
    }
}
