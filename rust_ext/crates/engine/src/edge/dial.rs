//! Which ways a new flow tries, in which order, and how much of the whole budget each may use. Pure: time is an argument.
//!
//! UDP takes one attempt after the other. TCP takes the addresses of one origin together, as a run, and races them
//! (`proto::race`); a run has the time of all its attempts.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::ending::DialFailure;
use crate::app::App;
use crate::origin::Granted;
use crate::snapshot::Protocol;

/// Most attempts of one flow. A long list must not leave each of them a few milliseconds.
const MAX_ATTEMPTS: usize = 16;

/// Most addresses of one origin that a flow tries: a name with many dead ones must leave room for the other origins.
const MAX_ADDRESSES: usize = 6;

/// One flow in so many tries first what is on trial: few enough that a failure is felt by few, each of which goes on to the next way, and
/// enough that an app with some flows a second knows within seconds.
const TRIAL_ONE_IN: u64 = 32;

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

    /// The route handle; None: dialled here.
    pub(crate) const fn handle(self) -> Option<u32> {
        match self {
            Self::Here { .. } => None,
            Self::Through { handle, .. } => Some(handle),
        }
    }
}

/// The attempts of one flow, and the time there is for all of them.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    attempts: Vec<Attempt>,
    next: usize,
    deadline: Instant,
    has_retried: bool,
    /// An origin that is dialled here has no address.
    is_unresolved: bool,
}

impl Plan {
    /// For a client that came to `listener`: the app's candidates, each address of an origin that is dialled here on its own.
    ///
    /// `random` decides among addresses that are equal.
    pub(crate) fn for_client(
        now: Instant,
        app: &App,
        protocol: Protocol,
        listener: SocketAddr,
        random: u64,
    ) -> Self {
        let candidates = app.candidates(protocol);
        // Most have one address. An idle UDP session keeps its plan, so room for more would cost each of them.
        let mut attempts = Vec::with_capacity(candidates.len());
        let mut is_unresolved = false;
        // The high bits: the low ones decide among addresses.
        let tries = (random >> 32).is_multiple_of(TRIAL_ONE_IN);
        let first = candidates.iter().filter(|candidate| tries && candidate.is_on_trial);
        let others = candidates.iter().filter(|candidate| !(tries && candidate.is_on_trial));
        for candidate in first.chain(others) {
            let origin = candidate.origin;
            match candidate.handle {
                Some(handle) => attempts.push(Attempt::Through { origin, handle }),
                None => {
                    is_unresolved |= app.origins[origin].hosts.is_empty();
                    attempts.extend(here(app, origin, protocol, listener, random));
                }
            }
        }
        Self::new(now, attempts, app.connect_timeout, is_unresolved)
    }

    /// For a peer whose request was granted: the origin's addresses.
    pub(crate) fn for_peer(now: Instant, granted: &Granted, deadline: Duration, random: u64) -> Self {
        let Granted { app, origin, protocol, listener } = granted;
        let attempts = here(app, *origin, *protocol, *listener, random).collect();
        let is_unresolved = app.origins[*origin].hosts.is_empty();
        Self::new(now, attempts, app.connect_timeout.min(deadline), is_unresolved)
    }

    fn new(now: Instant, mut attempts: Vec<Attempt>, budget: Duration, is_unresolved: bool) -> Self {
        attempts.truncate(MAX_ATTEMPTS);
        Self { attempts, next: 0, deadline: now + budget, has_retried: false, is_unresolved }
    }

    /// Why the flow has no origin when nothing is left to try, `last` being why the last attempt failed.
    pub(crate) fn failure(&self, last: DialFailure) -> DialFailure {
        if self.is_unresolved && last == DialFailure::NoRoute { DialFailure::Unresolved } else { last }
    }

    /// The next way to try, and until when: what is left of the budget, shared evenly with those after it. None: none is left, or
    /// no time.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(Attempt, Instant)> {
        let (run, until) = self.take(now, 1)?;
        Some((self.attempt(run.start), until))
    }

    /// The same for all addresses of one origin that are dialled here; they have the shares of all of them together.
    pub(crate) fn next_run(&mut self, now: Instant) -> Option<(Range<usize>, Instant)> {
        self.take(now, MAX_ATTEMPTS)
    }

    /// An attempt of a run.
    pub(crate) fn attempt(&self, index: usize) -> Attempt {
        self.attempts[index]
    }

    fn take(&mut self, now: Instant, most: usize) -> Option<(Range<usize>, Instant)> {
        let left = self.deadline.saturating_duration_since(now);
        let rest = self.attempts.get(self.next..).filter(|rest| !rest.is_empty() && left > Duration::ZERO)?;
        let same = |attempt: &&Attempt| match (attempt, rest[0]) {
            (Attempt::Here { origin, .. }, Attempt::Here { origin: first, .. }) => *origin == first,
            (Attempt::Here { .. } | Attempt::Through { .. }, _) => false,
        };
        let count = rest.iter().take(most).take_while(same).count().max(1);
        let until = now + left * count as u32 / rest.len() as u32;
        let run = self.next..self.next + count;
        self.next = run.end;
        self.has_retried = run.start > 0;
        Some((run, until))
    }

    /// What has not been tried yet is tried in this order from now on: ways of which `is_doubtful` says no, then the others. Returns
    /// whether the next one is not doubtful.
    pub(crate) fn doubt(&mut self, is_doubtful: impl Fn(u32) -> bool) -> bool {
        let is_last = |attempt: &Attempt| match attempt {
            Attempt::Here { .. } => false,
            Attempt::Through { handle, .. } => is_doubtful(*handle),
        };
        let rest = &mut self.attempts[self.next..];
        rest.sort_by_key(is_last);
        rest.first().is_some_and(|attempt| !is_last(attempt))
    }

    /// As [`Self::doubt`], for an attempt that runs: true if there is a better way now. Then the present one is tried again at the end.
    pub(crate) fn put_off(&mut self, is_doubtful: impl Fn(u32) -> bool) -> bool {
        let is_better = self.doubt(is_doubtful);
        if is_better {
            self.try_again();
        }
        is_better
    }

    /// The present attempt is tried once more, after all others, if there is room: nothing was wrong with its origin.
    pub(crate) fn try_again(&mut self) {
        if let Some(attempt) = self.current().filter(|_| self.attempts.len() < MAX_ATTEMPTS) {
            self.attempts.push(attempt);
        }
    }

    /// Leave out the ways through these handles.
    pub(crate) fn avoid(&mut self, is_avoided: impl Fn(u32) -> bool) {
        self.attempts.retain(|attempt| match attempt {
            Attempt::Here { .. } => true,
            Attempt::Through { handle, .. } => !is_avoided(*handle),
        });
    }

    /// The way that is being tried, if one is.
    pub(crate) fn current(&self) -> Option<Attempt> {
        self.next.checked_sub(1).and_then(|index| self.attempts.get(index)).copied()
    }

    /// The flow comes to its plan only now, so much later than it was made.
    pub(crate) fn postpone(&mut self, by: Duration) {
        self.deadline += by;
    }

    /// Whether an origin may be dialled from here.
    pub(crate) fn may_dial_here(&self) -> bool {
        self.attempts.iter().any(|attempt| matches!(attempt, Attempt::Here { .. }))
    }

    /// Whether a way was tried and given up before the present one.
    pub(crate) const fn has_retried(&self) -> bool {
        self.has_retried
    }

    /// Whether there is a way beside the present one.
    pub(crate) const fn has_more(&self) -> bool {
        self.next < self.attempts.len()
    }
}

fn here(
    app: &App,
    origin: usize,
    protocol: Protocol,
    listener: SocketAddr,
    random: u64,
) -> impl Iterator<Item = Attempt> + use<> {
    let addresses = app.addresses(origin, protocol, listener, random, MAX_ADDRESSES);
    addresses.map(move |address| Attempt::Here { origin, address })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        app.origins.push(Origin::at("two", &["203.0.113.1", "2001:db8::1"], Some(90)));
        app.tcp = vec![Candidate::new(0, Some(7)), Candidate::new(3, None), Candidate::new(0, None)];
        let now = Instant::now();
        let mut plan = Plan::for_client(now, &app, Protocol::Tcp, listener(), 0);
        assert!(!plan.has_retried());
        assert_eq!(
            names_of(&mut plan, now),
            ["handle 7", "[2001:db8::1]:90", "203.0.113.1:90", "203.0.113.1:80"]
        );
        assert!(plan.has_retried());
    }

    #[test]
    fn what_is_on_trial_is_tried_first_by_one_flow_in_thirty_two() {
        let mut app = game();
        let on_trial = Candidate { is_on_trial: true, ..Candidate::new(0, Some(9)) };
        app.tcp = vec![Candidate::new(0, Some(7)), Candidate::new(0, Some(8)), on_trial];
        let now = Instant::now();
        let order = |random: u64| {
            let mut plan = Plan::for_client(now, &app, Protocol::Tcp, listener(), random << 32);
            names_of(&mut plan, now)
        };
        let first = (0..320).filter(|&random| order(random)[0] == "handle 9").count();
        assert_eq!(first, 10);
        assert_eq!(order(0), ["handle 9", "handle 7", "handle 8"]);
        assert_eq!(order(1), ["handle 7", "handle 8", "handle 9"]);
    }

    #[test]
    fn an_attempt_gets_its_share_and_what_earlier_ones_left() {
        let mut app = game();
        app.tcp = vec![Candidate::new(0, Some(1)); 4];
        let now = Instant::now();
        let mut plan = Plan::for_client(now, &app, Protocol::Tcp, listener(), 0);
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
    fn addresses_of_one_origin_are_a_run_and_have_their_shares_together() {
        let mut app = game();
        let addresses: Vec<_> = (1..=9).map(|last| format!("203.0.113.{last}")).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        app.origins.push(Origin::at("many", &addresses, Some(90)));
        app.tcp = vec![Candidate::new(0, None), Candidate::new(3, None), Candidate::new(3, Some(7))];
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut plan = Plan::for_client(now, &app, Protocol::Tcp, listener(), 0);
        // One address, six of the nine, and one handle share 5 s.
        assert_eq!(plan.next_run(now), Some((0..1, now + ms(625))));
        assert!(plan.has_more() && !plan.has_retried());
        let (run, until) = plan.next_run(now + ms(800)).unwrap();
        assert_eq!((run.clone(), until), (1..7, now + ms(800) + ms(4_200) * 6 / 7));
        let Attempt::Here { origin: 3, address } = plan.attempt(run.end - 1) else { panic!("the name") };
        assert_eq!(address.port(), 90);
        assert_eq!(plan.next_run(until), Some((7..8, now + ms(5_000))));
        assert!(!plan.has_more() && plan.has_retried());
        assert_eq!(plan.next_run(until), None);
    }

    #[test]
    fn a_name_without_an_answer_is_said_to_be_one() {
        let mut app = game();
        app.origins[0].hosts.clear();
        app.tcp = vec![Candidate::new(0, None)];
        let now = Instant::now();
        let mut plan = Plan::for_client(now, &app, Protocol::Tcp, listener(), 0);
        assert_eq!(plan.next_run(now), None);
        assert_eq!(plan.failure(DialFailure::NoRoute), DialFailure::Unresolved);
        assert_eq!(plan.failure(DialFailure::Refused), DialFailure::Refused);
    }

    #[test]
    fn without_time_nothing_is_tried_and_a_long_list_is_cut() {
        let mut app = game();
        app.tcp = vec![Candidate::new(0, Some(1)); 40];
        let now = Instant::now();
        let mut plan = Plan::for_client(now, &app, Protocol::Tcp, listener(), 0);
        assert_eq!(plan.next(now + Duration::from_secs(5)), None);
        assert_eq!(names_of(&mut plan, now).len(), MAX_ATTEMPTS);
    }

    #[test]
    fn a_peers_deadline_can_only_shorten_ours() {
        let (protocol, listener) = (Protocol::Tcp, listener());
        let granted = Granted { app: Arc::new(game()), origin: 0, protocol, listener };
        let now = Instant::now();
        for (asked, given) in [(2, 2), (50, 5)] {
            let mut plan = Plan::for_peer(now, &granted, Duration::from_secs(asked), 0);
            assert_eq!(plan.next(now).unwrap().1, now + Duration::from_secs(given));
            assert_eq!(plan.next(now), None);
        }
    }

    /// Handles 7, 8 and 9 in this order, and the origin from here between the last two.
    fn four_ways(now: Instant) -> Plan {
        let mut app = game();
        let through = |handle| Candidate::new(0, Some(handle));
        app.origins.push(Origin::at("near", &["203.0.113.1"], Some(90)));
        app.tcp = vec![through(7), through(8), Candidate::new(3, None), through(9)];
        Plan::for_client(now, &app, Protocol::Tcp, listener(), 0)
    }

    #[test]
    fn doubtful_ways_are_tried_last_and_in_their_order() {
        let now = Instant::now();
        let mut plan = four_ways(now);
        assert!(plan.doubt(|handle| handle == 7 || handle == 8));
        assert_eq!(names_of(&mut plan, now), ["203.0.113.1:90", "handle 9", "handle 7", "handle 8"]);
        assert!(!plan.doubt(|_| true), "nothing is left");
        let mut plan = four_ways(now);
        plan.avoid(|handle| handle != 8);
        assert_eq!(names_of(&mut plan, now), ["handle 8", "203.0.113.1:90"]);
    }

    #[test]
    fn an_attempt_is_put_off_for_a_better_one_and_for_no_other() {
        let now = Instant::now();
        let mut plan = four_ways(now);
        plan.next(now);
        assert!(plan.put_off(|handle| handle == 7));
        assert_eq!(names_of(&mut plan, now), ["handle 8", "203.0.113.1:90", "handle 9", "handle 7"]);

        let mut plan = four_ways(now);
        plan.attempts.truncate(2);
        plan.next(now);
        assert!(!plan.put_off(|_| true), "the other is no better");
        assert_eq!(names_of(&mut plan, now), ["handle 8"]);
    }

    #[test]
    fn trying_again_is_bounded() {
        let now = Instant::now();
        let mut plan = four_ways(now);
        let mut tried = 0;
        while plan.next(now).is_some() {
            plan.try_again();
            tried += 1;
        }
        assert_eq!(tried, MAX_ATTEMPTS);
    }
}
