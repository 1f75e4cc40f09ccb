//! LINK_DOWN (`docs/protocol.md` section 7a): which previous hops send over which link of ours, what they are told when one of these links is
//! lost, and what is passed on of what our next hops tell.
//!
//! Whether a link is lost is decided by [`Liveness`](crate::liveness::Liveness), from hellos over that link alone; what a source makes of what it
//! is told, there too. Here is only who hears what, and how often. A message names labels as the receiver would write them, so each PoP that
//! passes one on puts its own label in front: after three labels it ends, and nobody can say anything of paths that do not go through it.
//!
//! After every input call [`LinkDowns::poll_notice`] until it gives nothing, then wait until [`LinkDowns::poll_timeout`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use l4proxy_wire::DropReason;
use l4proxy_wire::ids::{Label, LinkId, PopId};
use l4proxy_wire::link_down::LinkDown;
use l4proxy_wire::outer::{Labels, MAX_LABELS};

use crate::keys::KeyGeneration;
use crate::rate::{Bucket, Rate};

#[cfg(test)]
mod tests;

/// Who sent over a link within this time is told that it is lost.
pub const USE_MEMORY: Duration = Duration::from_secs(10);

/// Links over which hellos are sent because others send over them, at most: what is left of the paths that a PoP follows.
pub const MAX_WATCHED: usize = 16;

/// Pairs of previous hop and link that are remembered, at most: 64 neighbours that each use 64 links.
const MAX_USES: usize = 4_096;

/// The first message may be lost with what else is lost: it is said again after this, …
const SAY_AGAIN: Duration = Duration::from_millis(25);

/// … and then, while packets for the link still come, at this pace.
const SAY_EVERY: Duration = Duration::from_millis(500);

/// The same labels are not said to the same neighbour twice within this time, whoever asks for it.
const SPACING: Duration = Duration::from_millis(10);

/// Messages that wait to be sent, at most.
const MAX_WAITING: usize = 256;

/// Pairs of neighbour and labels whose time is remembered for [`SPACING`], at most.
const MAX_SAID: usize = 1_024;

/// Neighbours that are listened to, at most; more than any fleet has.
const MAX_HEARD: usize = 1_024;

/// What is taken from one neighbour, in messages: a PoP that loses all of its links says 32 at once and 32 a second.
const TAKEN: Rate =
    Rate::new(NonZeroU64::new(100).expect("not zero"), NonZeroU64::new(200).expect("not zero"));

/// An outgoing link of this PoP that others may send over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelledLink {
    /// Its id.
    pub id: LinkId,
    /// What stands in outer headers for it.
    pub label: Label,
    /// The PoP at its other end.
    pub next: PopId,
}

/// A message to encode with the probe key of `to` and to send straight to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// A neighbour.
    pub to: PopId,
    /// What it is told.
    pub link_down: LinkDown,
}

/// What was said and heard, and what the bounds have refused, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkDownCounters {
    /// Messages about own links.
    pub sent: u64,
    /// Messages of next hops, passed on to one previous hop each.
    pub passed_on: u64,
    /// Messages that were taken from neighbours.
    pub heard: u64,
    /// Uses of a link that were not remembered, the table being full: this previous hop will not be told.
    pub uses_full: u64,
    /// Links not watched because as many were already.
    pub watched_full: u64,
    /// Messages not sent because too many waited.
    pub waiting_full: u64,
}

impl LinkDownCounters {
    /// Adds those of another instance.
    pub const fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.passed_on += other.passed_on;
        self.heard += other.heard;
        self.uses_full += other.uses_full;
        self.watched_full += other.watched_full;
        self.waiting_full += other.waiting_full;
    }
}

#[derive(Debug)]
struct Down {
    next_at: Instant,
    times: u32,
}

/// What was heard of one neighbour.
#[derive(Debug)]
struct Heard {
    generation: KeyGeneration,
    newest: u64,
    bucket: Bucket,
}

/// What this PoP knows of links that are lost to those who send over them.
#[derive(Debug)]
pub struct LinkDowns {
    own: PopId,
    origin: Instant,
    links: Vec<LabelledLink>,
    /// When a previous hop last sent over a link.
    uses: BTreeMap<(LinkId, PopId), Instant>,
    down: BTreeMap<LinkId, Down>,
    said: BTreeMap<(PopId, [u32; MAX_LABELS]), Instant>,
    heard: BTreeMap<PopId, Heard>,
    waiting: VecDeque<Notice>,
    number: u64,
    counters: LinkDownCounters,
}

impl LinkDowns {
    /// Without links. `origin` is when the process started: it must be the same for every instance in the process's life, because it is what
    /// keeps numbers from being used twice under one key.
    pub const fn new(own: PopId, origin: Instant) -> Self {
        Self {
            own,
            origin,
            links: Vec::new(),
            uses: BTreeMap::new(),
            down: BTreeMap::new(),
            said: BTreeMap::new(),
            heard: BTreeMap::new(),
            waiting: VecDeque::new(),
            number: 0,
            counters: LinkDownCounters {
                sent: 0,
                passed_on: 0,
                heard: 0,
                uses_full: 0,
                watched_full: 0,
                waiting_full: 0,
            },
        }
    }

    /// Replaces the links; what is remembered of those that stay, stays.
    pub fn set_links(&mut self, links: Vec<LabelledLink>) {
        self.links = links;
        let ids: BTreeSet<LinkId> = self.links.iter().map(|link| link.id).collect();
        self.uses.retain(|(link, _), _| ids.contains(link));
        self.down.retain(|link, _| ids.contains(link));
    }

    /// `previous` has sent over a link of ours.
    pub fn on_use(&mut self, now: Instant, previous: PopId, link: LinkId) {
        if self.uses.len() >= MAX_USES && !self.uses.contains_key(&(link, previous)) {
            self.uses.retain(|_, at| is_recent(now, *at));
            if self.uses.len() >= MAX_USES {
                self.counters.uses_full += 1;
                return;
            }
        }
        self.uses.insert((link, previous), now);
    }

    /// The links that others have sent over of late, and where they end: hellos are to go over them. No more than `room`.
    pub fn watched(&mut self, now: Instant, room: usize) -> Vec<LabelledLink> {
        self.uses.retain(|_, at| is_recent(now, *at));
        let used: BTreeSet<LinkId> = self.uses.keys().map(|&(link, _)| link).collect();
        let room = room.min(MAX_WATCHED);
        self.counters.watched_full += used.len().saturating_sub(room) as u64;
        let of = |id| self.links.iter().find(|link| link.id == id).copied();
        used.into_iter().filter_map(of).take(room).collect()
    }

    /// Whether a link is lost, as far as is known now. Those who use it are told once it is, and again while they go on.
    pub fn set_down(&mut self, now: Instant, link: LinkId, is_down: bool) {
        if is_down {
            self.down.entry(link).or_insert(Down { next_at: now, times: 0 });
        } else {
            self.down.remove(&link);
        }
    }

    /// Whether a link is lost, by the last [`Self::set_down`].
    pub fn is_down(&self, link: LinkId) -> bool {
        self.down.contains_key(&link)
    }

    /// Takes a message that came straight from neighbour `from` and was authenticated with its key of `generation`, and passes it on to those
    /// who send through us to it. What it says is then to be applied to the own paths that begin with a link to `from`.
    ///
    /// # Errors
    /// `link_down_tag` (it names another source), `link_down_replayed`, `link_down_limited`.
    pub fn handle(
        &mut self,
        now: Instant,
        from: PopId,
        generation: KeyGeneration,
        message: &LinkDown,
    ) -> Result<(), DropReason> {
        if message.source != from {
            return Err(DropReason::LinkDownTag);
        }
        if self.heard.len() >= MAX_HEARD && !self.heard.contains_key(&from) {
            return Err(DropReason::LinkDownLimited);
        }
        let heard =
            self.heard.entry(from).or_insert(Heard { generation, newest: 0, bucket: Bucket::new(now) });
        if generation < heard.generation || (generation == heard.generation && message.number <= heard.newest)
        {
            return Err(DropReason::LinkDownReplayed);
        }
        (heard.generation, heard.newest) = (generation, message.number);
        if !heard.bucket.take(now, TAKEN, 1) {
            return Err(DropReason::LinkDownLimited);
        }
        self.counters.heard += 1;
        self.pass_on(now, from, message.labels.as_slice());
        Ok(())
    }

    /// Those who send over our links to `from` learn what it says, with our label in front.
    fn pass_on(&mut self, now: Instant, from: PopId, labels: &[Label]) {
        let links: Vec<_> = self.links.iter().filter(|link| link.next == from).copied().collect();
        for link in links {
            let longer: Vec<_> = [link.label].iter().chain(labels).copied().collect();
            let Some(longer) = Labels::new(&longer) else { continue };
            for previous in self.users(now, link) {
                self.counters.passed_on += u64::from(self.say(now, previous, longer));
            }
        }
    }

    /// The next message that is to be sent.
    pub fn poll_notice(&mut self, now: Instant) -> Option<Notice> {
        let due: Vec<_> =
            self.down.iter().filter(|(_, down)| down.next_at <= now).map(|(&id, _)| id).collect();
        for id in due {
            if let Some(down) = self.down.get_mut(&id) {
                down.next_at = now + if down.times == 0 { SAY_AGAIN } else { SAY_EVERY };
                down.times = down.times.saturating_add(1);
            }
            let Some(link) = self.links.iter().find(|link| link.id == id).copied() else { continue };
            let Some(labels) = Labels::new(&[link.label]) else { continue };
            for previous in self.users(now, link) {
                self.counters.sent += u64::from(self.say(now, previous, labels));
            }
        }
        self.waiting.pop_front()
    }

    /// When to poll next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.down.values().map(|down| down.next_at).min()
    }

    /// What was said, heard and refused since the start.
    pub const fn counters(&self) -> LinkDownCounters {
        self.counters
    }

    /// Who has sent over a link of late.
    fn users(&self, now: Instant, link: LabelledLink) -> Vec<PopId> {
        let of_link = self.uses.range((link.id, PopId(0))..=(link.id, PopId(u32::MAX)));
        of_link
            .filter(|&(&(_, previous), &at)| is_recent(now, at) && previous != link.next)
            .map(|(&(_, previous), _)| previous)
            .collect()
    }

    /// Queues a message unless it has just been said, or there is no room; says whether it will be sent.
    fn say(&mut self, now: Instant, to: PopId, labels: Labels) -> bool {
        let mut key = (to, [0; MAX_LABELS]);
        for (place, label) in key.1.iter_mut().zip(labels.as_slice()) {
            *place = label.0;
        }
        if self.said.len() >= MAX_SAID {
            self.said.retain(|_, at| now.saturating_duration_since(*at) < SPACING);
        }
        let is_repeat = self.said.get(&key).is_some_and(|&at| now.saturating_duration_since(at) < SPACING);
        if is_repeat {
            return false;
        }
        if self.waiting.len() >= MAX_WAITING || self.said.len() >= MAX_SAID {
            self.counters.waiting_full += 1;
            return false;
        }
        self.said.insert(key, now);
        let since_start = u64::try_from(now.saturating_duration_since(self.origin).as_micros());
        self.number = since_start.unwrap_or(u64::MAX).max(self.number + 1);
        let link_down = LinkDown { source: self.own, number: self.number, labels };
        self.waiting.push_back(Notice { to, link_down });
        true
    }
}

fn is_recent(now: Instant, at: Instant) -> bool {
    now.saturating_duration_since(at) < USE_MEMORY
}
