//! Requests of other PoPs that were denied, for the daemon: a PoP that asks for what is not configured here is misconfigured, or not what
//! it was. One report for each PoP and a while, with how many there were, so that whoever floods us floods no log. Each request is
//! counted besides, by its reason.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use l4proxy_wire::ids::PopId;

/// Between two reports of one PoP.
const PAUSE: Duration = Duration::from_secs(10);

/// What is known of one PoP.
#[derive(Debug)]
struct Asked {
    told: Instant,
    /// Denied since then.
    untold: u64,
}

/// Those of one worker. As many entries as there are PoPs that were denied something lately.
#[derive(Debug, Default)]
pub(crate) struct Denials(HashMap<PopId, Asked>);

impl Denials {
    /// A request was denied. Returns how many are to be reported, with this one as their example; None: not yet.
    pub(crate) fn note(&mut self, now: Instant, peer: PopId) -> Option<u64> {
        if let Some(asked) = self.0.get_mut(&peer) {
            asked.untold += 1;
            if now < asked.told + PAUSE {
                return None;
            }
            asked.told = now;
            return Some(std::mem::take(&mut asked.untold));
        }
        self.0.retain(|_, asked| asked.untold > 0 || now < asked.told + PAUSE);
        self.0.insert(peer, Asked { told: now, untold: 0 });
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pop_is_reported_at_once_and_then_once_in_a_while_with_what_came_meanwhile() {
        let (mut denials, now) = (Denials::default(), Instant::now());
        assert_eq!(denials.note(now, PopId(1)), Some(1));
        for _ in 0..1_000 {
            assert_eq!(denials.note(now, PopId(1)), None);
        }
        assert_eq!(denials.note(now, PopId(2)), Some(1), "another PoP is another matter");
        assert_eq!(denials.note(now + PAUSE, PopId(1)), Some(1_001));
        assert_eq!(denials.note(now + PAUSE, PopId(1)), None);
    }

    #[test]
    fn pops_that_ask_for_nothing_any_more_are_forgotten() {
        let (mut denials, now) = (Denials::default(), Instant::now());
        for peer in 0..1_000 {
            denials.note(now + PAUSE * peer, PopId(peer));
            assert!(denials.0.len() <= 2);
        }
    }
}
