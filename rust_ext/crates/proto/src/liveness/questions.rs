//! Whether a link is lost, said sooner than a path is given up: when hellos over it are missing, a volley of further ones asks at once, and
//! only silence on all of them is an answer. A burst that swallows a few packets does not last as long in time.

use std::time::{Duration, Instant};

use crate::liveness::INTERVAL;

/// How many hellos ask, besides the two or more that are missing already: all are lost by chance once in 10¹² at one percent of loss.
const VOLLEY: u8 = 4;

/// Between two of them.
const SPACING: Duration = Duration::from_millis(5);

/// How much longer than a round trip an answer may take: the peer sends one as soon as it hears a path again.
const ANSWER_SLACK: Duration = Duration::from_millis(10);

/// No link is asked more often than this, so that sequences stay below what they may reach by time (`sequence`).
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A volley under way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    since: Instant,
    left: u8,
    next: Instant,
    /// When no answer is one; known once the last has been sent.
    until: Option<Instant>,
}

/// The questions about one watched path.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Questions {
    asked: Option<Asked>,
    is_lost: bool,
}

impl Questions {
    /// Hellos are missing. Whether another one is to be sent now; `patience` is a round trip and its variation.
    pub(super) fn on_doubt(&mut self, now: Instant, patience: Duration) -> bool {
        let is_old = |asked: &Asked| now.saturating_duration_since(asked.since) >= ASK_EVERY;
        if self.asked.is_none_or(|asked| !self.is_lost && is_old(&asked)) {
            self.asked = Some(Asked { since: now, left: VOLLEY, next: now, until: None });
        }
        let Some(asked) = &mut self.asked else { return false };
        if asked.left > 0 && asked.next <= now {
            asked.left -= 1;
            asked.next = now + SPACING;
            if asked.left == 0 {
                asked.until = Some(now + patience.min(INTERVAL * 20) + ANSWER_SLACK);
            }
            return true;
        }
        if asked.until.is_some_and(|until| until <= now) {
            asked.until = None;
            self.is_lost = true;
        }
        false
    }

    /// A hello that was sent at `sent` has been heard.
    pub(super) fn on_heard(&mut self, sent: Instant) {
        if let Some(asked) = &mut self.asked
            && sent >= asked.since
        {
            // The time of the volley stays, so that the next one is not too soon.
            (asked.left, asked.until) = (0, None);
            self.is_lost = false;
        }
    }

    /// Nothing has answered.
    pub(super) const fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// When [`Self::on_doubt`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let asked = self.asked?;
        if asked.left > 0 { Some(asked.next) } else { asked.until }
    }
}
