//! Which ways a new flow tries, in which order, and how much of the whole budget each may use. Pure: time is an argument.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::snapshot::Protocol;

/// Most attempts of one flow. A name with many dead addresses must not leave each of them a few milliseconds.
const MAX_ATTEMPTS: usize = 8;

/// One way to an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Dial it from here.
    Here {
        /// Index into the app's origins.
        origin: usize,
        /// One of its addresses.
        address: SocketAddr,
    },
    /// Have another PoP dial it.
    Through {
        /// Index into the app's origins.
        origin: usize,
        /// The route handle to that PoP.
        handle: u32,
    },
}

impl Attempt {
    /// Index into the app's origins.
    pub(crate) const fn origin(self) -> usize {
        match self {
            Self::Here { origin, .. } | Self::Through { origin, .. } => origin,
        }
    }
}

/// The attempts of one flow, and the time there is for all of them.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    attempts: Vec<Attempt>,
    next: usize,
    deadline: Instant,
}

impl Plan {
    /// For a client that came to `listener`: the app's candidates, each address of an origin that is dialled here on its own.
    pub(crate) fn for_client(now: Instant, app: &App, protocol: Protocol, listener: SocketAddr) -> Self {
        let mut attempts = Vec::new();
        for candidate in app.candidates(protocol) {
            let origin = candidate.origin;
            match candidate.handle {
                Some(handle) => attempts.push(Attempt::Through { origin, handle }),
                None => attempts.extend(here(
                    app,
                    origin,
                    app.origin_port(&app.origins[origin], protocol, listener),
                )),
            }
        }
        Self::new(now, attempts, app.connect_timeout)
    }

    /// For a peer whose request was granted: the origin's addresses.
    pub(crate) fn for_peer(now: Instant, app: &App, origin: usize, port: u16, deadline: Duration) -> Self {
        Self::new(now, here(app, origin, Some(port)).collect(), app.connect_timeout.min(deadline))
    }

    fn new(now: Instant, mut attempts: Vec<Attempt>, budget: Duration) -> Self {
        attempts.truncate(MAX_ATTEMPTS);
        Self { attempts, next: 0, deadline: now + budget }
    }

    /// The next way to try, and until when: what is left of the budget, shared evenly with those after it. None: none is left, or
    /// no time.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(Attempt, Instant)> {
        let left = self.deadline.saturating_duration_since(now);
        let attempt = *self.attempts.get(self.next).filter(|_| left > Duration::ZERO)?;
        let share = left / (self.attempts.len() - self.next) as u32;
        self.next += 1;
        Some((attempt, now + share))
    }

    /// Whether a way was tried and given up before the present one.
    pub(crate) const fn has_retried(&self) -> bool {
        self.next > 1
    }
}

fn here(app: &App, origin: usize, port: Option<u16>) -> impl Iterator<Item = Attempt> + '_ {
    let addresses = app.origins[origin].addresses.iter();
    port.into_iter().flat_map(move |port| {
        addresses.clone().map(move |&ip| Attempt::Here { origin, address: SocketAddr::new(ip, port) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tests::game;
    use crate::app::{Candidate, Origin};

    fn names_of(plan: &mut Plan, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| plan.next(now))
            .map(|(attempt, _)| match attempt {
                Attempt::Here { address, .. } => address.to_string(),
                Attempt::Through { handle, .. } => format!("handle {handle}"),
            })
            .collect()
    }

    fn listener() -> SocketAddr {
        "192.0.2.1:80".parse().unwrap()
    }

    #[test]
    fn candidates_come_in_order_and_an_origins_addresses_each() {
        let mut app = game();
        let addresses = ["203.0.113.1", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec();
        app.origins.push(Origin { name: "two".into(), addresses, port: Some(90) });
        app.tcp = vec![
            Candidate { origin: 0, handle: Some(7) },
            Candidate { origin: 3, handle: None },
            Candidate { origin: 0, handle: None },
        ];
        let now = Instant::now();
        let mut plan = Plan::for_client(now, &app, Protocol::Tcp, listener());
        assert!(!plan.has_retried());
        assert_eq!(
            names_of(&mut plan, now),
            ["handle 7", "203.0.113.1:90", "[2001:db8::1]:90", "203.0.113.1:80"]
        );
        assert!(plan.has_retried());
    }

    #[test]
    fn an_attempt_gets_its_share_and_what_earlier_ones_left() {
        let mut app = game();
        app.tcp = vec![Candidate { origin: 0, handle: Some(1) }; 4];
        let now = Instant::now();
        let mut plan = Plan::for_client(now, &app, Protocol::Tcp, listener());
        let ms = Duration::from_millis;
        assert_eq!(plan.next(now).unwrap().1, now + ms(1_250));
        // The first one failed at once: there is more for the others.
        assert_eq!(plan.next(now + ms(50)).unwrap().1, now + ms(1_700));
        // The second one took all it had.
        assert_eq!(plan.next(now + ms(1_700)).unwrap().1, now + ms(3_350));
        assert_eq!(plan.next(now + ms(3_350)).unwrap().1, now + ms(5_000));
        assert_eq!(plan.next(now + ms(3_400)), None);
    }

    #[test]
    fn without_time_nothing_is_tried_and_a_long_list_is_cut() {
        let mut app = game();
        app.tcp = vec![Candidate { origin: 0, handle: Some(1) }; 20];
        let now = Instant::now();
        let mut plan = Plan::for_client(now, &app, Protocol::Tcp, listener());
        assert_eq!(plan.next(now + Duration::from_secs(5)), None);
        assert_eq!(names_of(&mut plan, now).len(), MAX_ATTEMPTS);
    }

    #[test]
    fn a_peers_deadline_can_only_shorten_ours() {
        let app = game();
        let now = Instant::now();
        for (asked, given) in [(2, 2), (50, 5)] {
            let mut plan = Plan::for_peer(now, &app, 0, 80, Duration::from_secs(asked));
            assert_eq!(plan.next(now).unwrap().1, now + Duration::from_secs(given));
            assert_eq!(plan.next(now), None);
        }
    }
}
