//! How fast one flow may go, each direction by itself: `limits.bandwidth_per_flow` of its app when it began, at the PoP to which its
//! client came.
//!
//! TCP waits: what is not read the kernel's window keeps at the sender. UDP cannot, so what comes too fast is dropped and counted.

use std::time::Instant;

use l4proxy_proto::rate::{Bucket, Rate};
use l4proxy_proto::relay::Way;

use crate::messages::FlowRole;
use crate::records::FlowMeta;

/// A bucket holds what comes in a tenth of a second: a burst of that length is not seen on any graph, and evens out wake-ups.
const BURSTS_PER_SECOND: u64 = 10;

/// Yet never less than this, or the slowest flows would wake the worker for a few bytes.
const MIN_BURST: u64 = 16 * 1024;

/// A flow that waits goes on when so much of its bucket is full again.
const QUANTA_PER_BURST: u64 = 4;

/// What a direction may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// Read so many bytes at most.
    Read(usize),
    /// Nothing from now on, until its time has come.
    BeginsToWait,
    /// Nothing yet: more has come from the sender while it waits.
    Waits,
}

/// The two directions of one flow.
#[derive(Debug)]
pub(crate) struct Throttle {
    rate: Rate,
    quantum: u64,
    buckets: [Bucket; 2],
    /// Until when a direction waits.
    until: [Option<Instant>; 2],
    /// A direction has begun to wait, and no timer knows yet.
    is_news: bool,
}

impl Throttle {
    /// What holds for a new flow; None: as fast as it goes. A flow of another PoP's client is slowed there.
    pub(crate) fn of(meta: &FlowMeta, now: Instant) -> Option<Box<Self>> {
        let came_here = match meta.role {
            FlowRole::Local | FlowRole::Ingress => true,
            FlowRole::Egress => false,
        };
        let per_second = meta.app.policy.limits.bandwidth_per_flow.filter(|_| came_here)?;
        let burst = per_second.get() / BURSTS_PER_SECOND;
        let burst = burst.max(MIN_BURST).try_into().unwrap_or(per_second);
        Some(Box::new(Self {
            rate: Rate::new(per_second, burst),
            quantum: burst.get() / QUANTA_PER_BURST,
            buckets: [Bucket::new(now); 2],
            until: [None; 2],
            is_news: false,
        }))
    }

    /// How many bytes may be read now, `limit` at most.
    pub(crate) fn allowance(&mut self, way: Way, limit: usize, now: Instant) -> Allowance {
        let bucket = &self.buckets[way as usize];
        let available = bucket.available(now, self.rate);
        if available >= self.quantum.min(limit as u64) {
            return Allowance::Read(usize::try_from(available).unwrap_or(limit).min(limit));
        }
        let until = &mut self.until[way as usize];
        if until.is_some() {
            return Allowance::Waits;
        }
        *until = Some(bucket.ready_at(now, self.rate, self.quantum));
        self.is_news = true;
        Allowance::BeginsToWait
    }

    /// So many bytes were read.
    pub(crate) fn charge(&mut self, way: Way, bytes: usize, now: Instant) {
        self.buckets[way as usize].charge(now, self.rate, bytes as u64);
    }

    /// Whether a datagram may pass. One larger than what is left may: it is paid for by those that follow.
    pub(crate) fn passes(&mut self, way: Way, bytes: usize, now: Instant) -> bool {
        let passes = self.buckets[way as usize].available(now, self.rate) > 0;
        if passes {
            self.charge(way, bytes, now);
        }
        passes
    }

    /// When the first direction that waits may go on.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.until.into_iter().flatten().min()
    }

    /// Whether a direction has begun to wait since this was asked last.
    pub(crate) const fn take_news(&mut self) -> bool {
        std::mem::replace(&mut self.is_news, false)
    }

    /// The directions whose wait is over.
    pub(crate) fn take_ready(&mut self, now: Instant) -> impl Iterator<Item = Way> + '_ {
        Way::BOTH.into_iter().filter(move |&way| self.until[way as usize].take_if(|at| *at <= now).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::app::App;
    use crate::app::tests::game;
    use crate::policy::{Limits, Policy};
    use crate::snapshot::Protocol;

    const MB: usize = 1_000_000;

    fn throttle(role: FlowRole, per_second: u64, now: Instant) -> Option<Box<Throttle>> {
        let bandwidth_per_flow = NonZeroU64::new(per_second);
        let limits = Limits { bandwidth_per_flow, ..Limits::default() };
        let app = App { policy: Policy { limits, ..Policy::default() }, ..game() };
        let address = "192.0.2.1:1".parse().unwrap();
        let meta = FlowMeta {
            id: 1,
            app: Arc::new(app),
            protocol: Protocol::Tcp,
            role,
            client: address,
            listener: address,
            origin: None,
            remote: None,
            egress_changes: 0,
            started: now,
            connected: None,
            first_byte: None,
            server_name: None,
        };
        Throttle::of(&meta, now)
    }

    #[test]
    fn only_apps_with_a_limit_and_only_the_clients_own_pop_slow_a_flow() {
        let now = Instant::now();
        assert!(throttle(FlowRole::Local, 0, now).is_none());
        assert!(throttle(FlowRole::Egress, 1, now).is_none());
        assert!(throttle(FlowRole::Ingress, 1, now).is_some());
    }

    /// A relay that reads whenever it may: in ten seconds it carries ten seconds' worth and one burst, and it sleeps in between.
    #[test]
    fn a_greedy_reader_gets_its_rate_in_each_direction() {
        let start = Instant::now();
        let mut throttle = throttle(FlowRole::Local, 5 * MB as u64, start).unwrap();
        let (mut now, mut read, mut waits) = (start, [0; 2], 0);
        while now < start + Duration::from_secs(10) {
            for way in Way::BOTH {
                while let Allowance::Read(limit) = throttle.allowance(way, 256 * 1024, now) {
                    assert!(limit > 0);
                    throttle.charge(way, limit, now);
                    read[way as usize] += limit;
                }
            }
            assert!(throttle.take_news() && !throttle.take_news());
            now = throttle.deadline().unwrap();
            assert!(throttle.take_ready(now).count() > 0);
            waits += 1;
        }
        for bytes in read {
            assert!((50 * MB..=51 * MB).contains(&bytes), "{bytes}");
        }
        assert!(waits <= 1_000, "{waits} wake-ups in ten seconds");
    }

    /// What the sender adds meanwhile wakes the worker, and that must neither be counted as another wait nor put the end of this one off.
    #[test]
    fn a_direction_that_waits_is_told_so_again_and_its_time_stays() {
        let start = Instant::now();
        let mut throttle = throttle(FlowRole::Local, MB as u64, start).unwrap();
        throttle.charge(Way::ToClient, MB / 10, start);
        assert_eq!(throttle.allowance(Way::ToClient, 65_536, start), Allowance::BeginsToWait);
        let until = throttle.deadline().unwrap();
        assert!(throttle.take_news());
        let soon = start + Duration::from_millis(1);
        assert_eq!(throttle.allowance(Way::ToClient, 65_536, soon), Allowance::Waits);
        assert!(!throttle.take_news() && throttle.deadline() == Some(until));
        assert_eq!(throttle.take_ready(until).collect::<Vec<_>>(), [Way::ToClient]);
        assert_eq!(throttle.allowance(Way::ToClient, 65_536, until), Allowance::Read(MB / 40));
    }

    #[test]
    fn small_reads_are_not_held_back_for_a_quantum() {
        let now = Instant::now();
        let mut throttle = throttle(FlowRole::Local, 1_000, now).unwrap();
        throttle.charge(Way::ToOrigin, MIN_BURST as usize - 10, now);
        assert_eq!(throttle.allowance(Way::ToOrigin, 4, now), Allowance::Read(4));
        assert_eq!(throttle.allowance(Way::ToClient, 4, now), Allowance::Read(4));
    }

    #[test]
    fn the_largest_datagram_passes_at_any_rate_and_is_paid_for() {
        let now = Instant::now();
        let mut throttle = throttle(FlowRole::Local, 10_000, now).unwrap();
        assert!(throttle.passes(Way::ToOrigin, 65_507, now));
        assert!(!throttle.passes(Way::ToOrigin, 1, now));
        assert!(throttle.passes(Way::ToClient, 1, now), "the other direction is another");
        assert!(!throttle.passes(Way::ToOrigin, 1, now + Duration::from_millis(4_900)));
        assert!(throttle.passes(Way::ToOrigin, 1, now + Duration::from_millis(5_000)));
    }
}
