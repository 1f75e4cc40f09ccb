//! When the connections that this PoP dialled are followed by others with keys of their own, and when those that were followed are closed.
//! Decides times only; it dials and closes nothing. What a successor is: docs/protocol.md, "Epochs"; why then: docs/decisions/0016.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use l4proxy_tunnel::ConnectionKey;

/// A connection is followed by another one after this time at the latest: what somebody learns by taking the keys out of a process is
/// what passes in an hour.
pub(super) const LIFE: Duration = Duration::from_secs(3600);

/// Connections that began together do not end together: each lives shorter by up to this part of its life.
const SPREAD: f64 = 0.25;

/// Between an attempt that failed and the next one.
const RETRY: Duration = Duration::from_secs(10);

/// A connection that was followed is closed when it has carried no stream for this long: what is on its way on its channel has come by then,
/// and so has the acknowledgement of its streams' last bytes.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// How often connections that were followed are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Connections of one PoP that were followed and still carry streams. With so many the next is followed only when its keys are worn: streams
/// that never end must not pile up connections.
const MAX_LINGERING: usize = 32;

/// A connection in use.
#[derive(Debug)]
struct Epoch {
    /// When it is to be followed.
    due: Instant,
    is_worn: bool,
    successor: Option<ConnectionKey>,
}

/// A connection that was followed.
#[derive(Debug)]
struct Followed {
    empty_since: Instant,
}

/// How epochs have gone so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EpochTotals {
    /// Connections that were followed by another one.
    pub(crate) rolled: u64,
    /// Successors that could not be made.
    pub(crate) failed: u64,
    /// Were due, and put off: too many followed connections still carry streams.
    pub(crate) put_off: u64,
}

/// The epochs of the connections that this worker dialled.
#[derive(Debug)]
pub(super) struct Epochs {
    life: Duration,
    linger: Duration,
    epochs: HashMap<ConnectionKey, Epoch>,
    followed: HashMap<ConnectionKey, Followed>,
    look_at: Option<Instant>,
    totals: EpochTotals,
}

impl Default for Epochs {
    fn default() -> Self {
        Self {
            life: LIFE,
            linger: LINGER,
            epochs: HashMap::new(),
            followed: HashMap::new(),
            look_at: None,
            totals: EpochTotals::default(),
        }
    }
}

impl Epochs {
    /// The same with another life; what lies in the past stays as it is.
    #[cfg(test)]
    pub(super) fn set_life(&mut self, life: Duration, linger: Duration) {
        (self.life, self.linger) = (life, linger);
    }

    pub(super) const fn totals(&self) -> EpochTotals {
        self.totals
    }

    /// A connection that was dialled here is ready. Returns the one that it follows from here on, if it was made for that.
    pub(super) fn on_ready(&mut self, now: Instant, key: ConnectionKey) -> Option<ConnectionKey> {
        let due = now + self.life.mul_f64(1.0 - SPREAD * share(key));
        self.epochs.insert(key, Epoch { due, is_worn: false, successor: None });
        let older = self.predecessor(key)?;
        self.epochs.remove(&older);
        self.followed.insert(older, Followed { empty_since: now });
        self.look_at.get_or_insert(now + LOOK_EVERY);
        self.totals.rolled += 1;
        Some(older)
    }

    /// The keys of a connection are worn.
    pub(super) fn on_worn(&mut self, now: Instant, key: ConnectionKey) {
        if let Some(epoch) = self.epochs.get_mut(&key) {
            epoch.is_worn = true;
            epoch.due = epoch.due.min(now);
        }
    }

    /// A connection that is due to be followed. Follow with [`Self::on_dialled`] or [`Self::on_failed`].
    pub(super) fn poll_dial(&mut self, now: Instant) -> Option<ConnectionKey> {
        let is_crowded = self.followed.len() >= MAX_LINGERING;
        for (key, epoch) in &mut self.epochs {
            if epoch.successor.is_some() || epoch.due > now {
                continue;
            }
            if epoch.is_worn || !is_crowded {
                return Some(*key);
            }
            epoch.due = now + RETRY;
            self.totals.put_off += 1;
        }
        None
    }

    /// The successor of `older` is being made.
    pub(super) fn on_dialled(&mut self, older: ConnectionKey, successor: ConnectionKey) {
        if let Some(epoch) = self.epochs.get_mut(&older) {
            epoch.successor = Some(successor);
        }
    }

    /// The successor of `older` could not be begun.
    pub(super) fn on_failed(&mut self, now: Instant, older: ConnectionKey) {
        self.totals.failed += 1;
        if let Some(epoch) = self.epochs.get_mut(&older) {
            (epoch.successor, epoch.due) = (None, now + RETRY);
        }
    }

    /// A connection has ended. Returns a successor that was being made for it and is of no use any more.
    pub(super) fn on_gone(&mut self, now: Instant, key: ConnectionKey) -> Option<ConnectionKey> {
        self.followed.remove(&key);
        let gone = self.epochs.remove(&key);
        if let Some(older) = self.predecessor(key) {
            self.on_failed(now, older);
        }
        gone.and_then(|epoch| epoch.successor)
    }

    /// Connections that were followed and can be closed. `streams` says how many each carries.
    pub(super) fn take_finished(
        &mut self,
        now: Instant,
        streams: impl Fn(ConnectionKey) -> usize,
    ) -> Vec<ConnectionKey> {
        if self.look_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let linger = self.linger;
        let finished = self.followed.iter_mut().filter_map(|(&key, followed)| {
            if streams(key) > 0 {
                followed.empty_since = now;
            }
            (now.saturating_duration_since(followed.empty_since) >= linger).then_some(key)
        });
        let finished: Vec<_> = finished.collect();
        for key in &finished {
            self.followed.remove(key);
        }
        self.look_at = (!self.followed.is_empty()).then_some(now + LOOK_EVERY);
        finished
    }

    /// When [`Self::poll_dial`] or [`Self::take_finished`] has something next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.epochs.values().filter(|epoch| epoch.successor.is_none());
        waiting.map(|epoch| epoch.due).chain(self.look_at).min()
    }

    fn predecessor(&self, successor: ConnectionKey) -> Option<ConnectionKey> {
        self.epochs.iter().find(|(_, epoch)| epoch.successor == Some(successor)).map(|(&key, _)| key)
    }
}

/// A number from 0 to 1 that differs from connection to connection (the golden ratio's multiples are spread evenly).
fn share(key: ConnectionKey) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    ((key.as_u64() >> 16) as f64 * GOLDEN).fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> ConnectionKey {
        ConnectionKey::for_tests(number)
    }

    #[test]
    fn a_connection_is_followed_within_its_life_and_not_all_at_once() {
        let (now, mut epochs) = (Instant::now(), Epochs::default());
        for number in 1..=100 {
            assert_eq!(epochs.on_ready(now, key(number)), None);
        }
        assert_eq!(epochs.poll_dial(now + LIFE.mul_f64(1.0 - SPREAD)), None);
        let mut within = |part: f64| {
            let at = now + LIFE.mul_f64(part);
            let mut due = 0;
            while let Some(older) = epochs.poll_dial(at) {
                epochs.on_dialled(older, key(1_000));
                due += 1;
            }
            due
        };
        let spread: Vec<u32> = [0.8, 0.85, 0.9, 0.95, 1.0].map(&mut within).to_vec();
        assert_eq!(spread.iter().sum::<u32>(), 100);
        assert!(spread.iter().all(|&due| (15..=25).contains(&due)), "{spread:?}");
    }

    #[test]
    fn worn_keys_are_followed_at_once_and_what_fails_is_tried_again_later() {
        let (now, mut epochs) = (Instant::now(), Epochs::default());
        epochs.on_ready(now, key(1));
        assert_eq!(epochs.poll_dial(now), None);
        epochs.on_worn(now, key(1));
        assert_eq!(epochs.poll_dial(now), Some(key(1)));
        epochs.on_failed(now, key(1));
        assert_eq!((epochs.poll_dial(now), epochs.poll_timeout()), (None, Some(now + RETRY)));
        let later = now + RETRY;
        assert_eq!(epochs.poll_dial(later), Some(key(1)));
        epochs.on_dialled(key(1), key(2));
        assert_eq!(epochs.poll_dial(later + LIFE), None, "one successor at a time");
        assert_eq!(epochs.on_gone(later, key(2)), None, "its handshake failed");
        assert_eq!(epochs.poll_dial(later + RETRY), Some(key(1)));
        epochs.on_dialled(key(1), key(3));
        assert_eq!(epochs.on_ready(later, key(3)), Some(key(1)));
        assert_eq!(epochs.totals(), EpochTotals { rolled: 1, failed: 2, put_off: 0 });
    }

    #[test]
    fn a_successor_of_a_connection_that_has_ended_is_of_no_use() {
        let (now, mut epochs) = (Instant::now(), Epochs::default());
        epochs.on_ready(now, key(1));
        epochs.on_worn(now, key(1));
        epochs.on_dialled(key(1), key(2));
        assert_eq!(epochs.on_gone(now, key(1)), Some(key(2)));
        assert_eq!(epochs.on_gone(now, key(2)), None);
        assert_eq!(epochs.poll_timeout(), None);
    }

    #[test]
    fn what_was_followed_is_closed_when_it_has_been_empty_for_a_while() {
        let (now, mut epochs) = (Instant::now(), Epochs::default());
        epochs.on_ready(now, key(1));
        epochs.on_dialled(key(1), key(2));
        epochs.on_ready(now, key(2));
        let mut finished = |seconds: u64, streams: usize| {
            epochs.take_finished(now + Duration::from_secs(seconds), |_| streams)
        };
        assert_eq!(finished(9, 0), []);
        assert_eq!(finished(10, 1), [], "a stream has come late");
        assert_eq!(finished(19, 0), []);
        assert_eq!(finished(20, 0), [key(1)]);
        assert_eq!(finished(30, 0), [], "once");
    }

    #[test]
    fn while_many_linger_only_worn_keys_are_followed() {
        let (now, mut epochs) = (Instant::now(), Epochs::default());
        epochs.on_ready(now, key(0));
        for number in 0..MAX_LINGERING as u32 {
            epochs.on_dialled(key(number), key(number + 1));
            assert_eq!(epochs.on_ready(now, key(number + 1)), Some(key(number)));
        }
        let newest = key(MAX_LINGERING as u32);
        assert_eq!(epochs.poll_dial(now + LIFE), None);
        assert_eq!(epochs.totals().put_off, 1);
        epochs.on_worn(now + LIFE, newest);
        assert_eq!(epochs.poll_dial(now + LIFE), Some(newest));
    }
}
