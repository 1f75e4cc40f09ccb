//! When the pair connections of this PoP are dialled, and again after they were lost. Decides times only; it dials nothing.
//!
//! Only worker 0 keeps pair connections: their keys serve all workers, and the control planes' messages need one place.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use l4proxy_tunnel::ConnectionKey;
use l4proxy_wire::ids::PopId;

/// After the first failure; doubled with each further one. Short, because a peer that restarts is back within a second.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// Longest wait between two attempts: what a peer that was away for long waits at most once it is back.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A connection that held this long was good: the next failure starts from the shortest wait.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// What is known of the pair connection with one peer that this PoP dials.
#[derive(Debug)]
struct Pair {
    connection: Option<ConnectionKey>,
    dialled_at: Instant,
    next_at: Instant,
    wait: Duration,
}

/// Pair connections that this PoP dials.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    pairs: HashMap<PopId, Pair>,
}

impl Pairs {
    /// Keep a pair connection with each of `peers` from now on, and with no other.
    pub(super) fn set_peers(&mut self, now: Instant, peers: &[PopId]) {
        self.pairs.retain(|peer, _| peers.contains(peer));
        for &peer in peers {
            self.pairs.entry(peer).or_insert(Pair {
                connection: None,
                dialled_at: now,
                next_at: now,
                wait: RETRY_FIRST,
            });
        }
    }

    /// A peer whose connection is due to be dialled. Follow with [`Self::on_dialled`] or [`Self::on_failed`].
    pub(super) fn poll_dial(&self, now: Instant) -> Option<PopId> {
        let due = |pair: &Pair| pair.connection.is_none() && pair.next_at <= now;
        self.pairs.iter().filter(|(_, pair)| due(pair)).map(|(&peer, _)| peer).min()
    }

    /// The connection with `peer` is being made.
    pub(super) fn on_dialled(&mut self, now: Instant, peer: PopId, connection: ConnectionKey) {
        if let Some(pair) = self.pairs.get_mut(&peer) {
            pair.connection = Some(connection);
            pair.dialled_at = now;
        }
    }

    /// The connection with `peer` is another one from here on, which has followed it.
    pub(super) fn on_followed(
        &mut self,
        now: Instant,
        peer: PopId,
        older: ConnectionKey,
        connection: ConnectionKey,
    ) {
        if let Some(pair) = self.pairs.get_mut(&peer).filter(|pair| pair.connection == Some(older)) {
            (pair.connection, pair.dialled_at, pair.wait) = (Some(connection), now, RETRY_FIRST);
        }
    }

    /// The connection with `peer` could not be begun.
    pub(super) fn on_failed(&mut self, now: Instant, peer: PopId) {
        if let Some(pair) = self.pairs.get_mut(&peer) {
            pair.connection = None;
            pair.next_at = now + pair.wait;
            pair.wait = (pair.wait * 2).min(RETRY_MAX);
        }
    }

    /// A connection has ended. Others than pair connections that this PoP dialled are ignored.
    pub(super) fn on_lost(&mut self, now: Instant, peer: PopId, connection: ConnectionKey) {
        let Some(pair) = self.pairs.get_mut(&peer) else { return };
        if pair.connection != Some(connection) {
            return;
        }
        if now.duration_since(pair.dialled_at) >= STEADY_AFTER {
            pair.wait = RETRY_FIRST;
        }
        self.on_failed(now, peer);
    }

    /// When [`Self::poll_dial`] has something next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.pairs.values().filter(|pair| pair.connection.is_none()).map(|pair| pair.next_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PopId = PopId(7);

    #[test]
    fn attempts_are_spaced_ever_wider_up_to_the_longest_wait() {
        let mut now = Instant::now();
        let mut pairs = Pairs::default();
        pairs.set_peers(now, &[PEER]);

        let mut waits = Vec::new();
        for _ in 0..7 {
            assert_eq!(pairs.poll_dial(now), Some(PEER));
            pairs.on_failed(now, PEER);
            let next = pairs.poll_timeout().expect("an attempt is due");
            waits.push((next - now).as_millis());
            assert_eq!(pairs.poll_dial(now), None, "not before its time");
            now = next;
        }

        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000]);
    }

    #[test]
    fn a_peer_that_left_the_fleet_is_not_dialled() {
        let now = Instant::now();
        let mut pairs = Pairs::default();
        pairs.set_peers(now, &[PEER]);
        pairs.set_peers(now, &[]);

        assert_eq!(pairs.poll_dial(now), None);
        assert_eq!(pairs.poll_timeout(), None);
    }
}
