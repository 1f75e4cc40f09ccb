//! One peer: what we send to it, what we have heard from it, and the rules that look at all of its paths together.

use std::time::{Duration, Instant};

use l4proxy_wire::DropReason;
use l4proxy_wire::hello::Hello;
use l4proxy_wire::ids::PathId;

use crate::keys::KeyGeneration;
use crate::liveness::heard::Heard;
use crate::liveness::path::{Change, OwnPath};
use crate::liveness::{HEARD_MEMORY, INTERVAL, PathState, SILENCE, SUSPECT_SILENCE, UNKNOWN_GRACE};

/// A PoP at the end of paths, or at the beginning of paths that end here.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Paths with traffic of ours, in order of preference.
    pub(super) in_use: Vec<PathId>,
    /// Paths that are also followed while the peer is heard.
    pub(super) when_heard: Vec<PathId>,
    /// Links that others send over: followed too, and asked about before they are given up.
    pub(super) watched: Vec<PathId>,
    /// Those over which hellos are sent, in order of preference.
    pub(super) paths: Vec<OwnPath>,
    pub(super) heard: Heard,
    /// Since when it has been heard without a silence.
    heard_since: Option<Instant>,
    /// When it last told of a hello of ours that it had not told of before.
    reached: Option<Instant>,
    /// Since when hellos are sent to it without a break.
    watched_since: Option<Instant>,
    /// When silence last took a path.
    gave_up: Option<Instant>,
    /// How many wanted paths have no room.
    pub(super) refused: u64,
}

impl Peer {
    /// Takes a hello; says whether the peer was silent before, so that its return paths are to begin.
    pub(super) fn on_hello(
        &mut self,
        now: Instant,
        resumed: Option<Instant>,
        generation: KeyGeneration,
        hello: &Hello,
    ) -> Result<bool, DropReason> {
        let is_silent =
            self.silent_from(resumed).is_none_or(|from| now.saturating_duration_since(from) >= SILENCE);
        let is_new = !self.is_heard(now);
        self.heard.accept(now, generation, hello)?;
        if self.heard.take_back() {
            self.paths.iter_mut().for_each(OwnPath::hasten);
        }
        if is_silent || self.heard_since.is_none() {
            self.heard_since = Some(now);
        }
        self.gave_up = None;
        Ok(is_new)
    }

    /// Takes what the peer says about our paths.
    pub(super) fn on_reports(
        &mut self,
        now: Instant,
        resumed: Option<Instant>,
        hello: &Hello,
    ) -> Vec<(PathId, Change)> {
        let mut changes = Vec::new();
        for report in hello.reports.as_slice() {
            let Some(path) = self.paths.iter_mut().find(|path| path.id == report.path) else { continue };
            let before = path.reported;
            changes.extend(path.on_report(now, resumed, hello.path, report).map(|change| (path.id, change)));
            if path.reported != before {
                self.reached = Some(now);
            }
        }
        changes.extend(self.confirm(now));
        changes
    }

    /// Applies the rules that no report sets off: total silence, short and long, and paths that are never mentioned.
    pub(super) fn on_time(
        &mut self,
        now: Instant,
        resumed: Option<Instant>,
    ) -> impl Iterator<Item = (PathId, Change)> + use<> {
        if self.heard.take_urgent(now, resumed) {
            self.paths.iter_mut().for_each(OwnPath::hasten);
        }
        self.ask(now, resumed);
        let mut changes: Vec<_> = self.doubt(now, resumed).into_iter().collect();
        changes.extend(self.confirm(now));
        for path in &mut self.paths {
            changes.extend(path.expire_told(now).map(|change| (path.id, change)));
        }
        let silent = self.give_up(now, resumed);
        let unmentioned = self.unmentioned(now, resumed);
        // The path that is used after one has died is as silent as that was.
        let doubted_next = self.doubt(now, resumed);
        changes.into_iter().chain(silent).chain(unmentioned).chain(doubted_next)
    }

    /// A transit PoP says that this path is broken. False: it is not followed.
    pub(super) fn on_told(&mut self, now: Instant, id: PathId) -> Option<Vec<(PathId, Change)>> {
        let path = self.paths.iter_mut().find(|path| path.id == id)?;
        let doubted = path.on_told(now).map(|change| (id, change));
        Some(doubted.into_iter().chain(self.confirm(now)).collect())
    }

    /// Paths of which both a transit PoP and their own hellos say that they are broken are given up, while there is one that nothing is said
    /// against: the last one never.
    fn confirm(&mut self, now: Instant) -> Vec<(PathId, Change)> {
        let mut changes = Vec::new();
        if self.paths.iter().all(|path| path.told_until().is_none()) {
            return changes;
        }
        let is_sound = |path: &OwnPath| path.state == PathState::Alive && !path.is_doubted();
        if !self.paths.iter().any(is_sound) {
            return changes;
        }
        for path in &mut self.paths {
            if let Some(silence) = path.confirmed(now) {
                path.die(now);
                changes.push((path.id, Change::Died(silence)));
            }
        }
        changes
    }

    /// Sends more hellos over watched links that are not heard: what is missing may have been a burst.
    fn ask(&mut self, now: Instant, resumed: Option<Instant>) {
        for place in 0..self.paths.len() {
            let path = &self.paths[place];
            let is_quiet = || self.quiet_at(resumed, path).is_some_and(|at| at <= now);
            if path.state != PathState::Alive
                || !self.watched.contains(&path.id)
                || !(path.is_suspect || is_quiet())
            {
                continue;
            }
            let path = &mut self.paths[place];
            let patience = path.slowest() + path.lateness();
            if path.questions.on_doubt(now, patience) {
                path.hasten();
            }
        }
    }

    /// See [`Liveness::is_link_lost`](super::Liveness::is_link_lost).
    pub(super) fn is_link_lost(&self, id: PathId) -> bool {
        let path = self.paths.iter().find(|path| path.id == id);
        path.is_some_and(|path| match path.state {
            PathState::Unknown => false,
            PathState::Dead => true,
            PathState::Alive => path.questions.is_lost(),
        })
    }

    /// When the silence of the peer, if it lasts, makes a path one that is not heard.
    fn quiet_at(&self, resumed: Option<Instant>, path: &OwnPath) -> Option<Instant> {
        Some(self.silent_from(resumed)? + SUSPECT_SILENCE + path.lateness())
    }

    /// A short silence makes the path that is used suspect, if there is another.
    fn doubt(&mut self, now: Instant, resumed: Option<Instant>) -> Option<(PathId, Change)> {
        if self.doubt_deadline(resumed)? > now {
            return None;
        }
        let silence = now.saturating_duration_since(self.heard.last?);
        let path = self.paths.iter_mut().find(|path| path.state != PathState::Dead)?;
        path.suspect(silence).map(|change| (path.id, change))
    }

    /// Total silence takes the preferred path, never the last.
    fn give_up(&mut self, now: Instant, resumed: Option<Instant>) -> Option<(PathId, Change)> {
        if self.silence_deadline(resumed)? > now {
            return None;
        }
        let path = self.paths.iter_mut().find(|path| path.state != PathState::Dead)?;
        path.die(now);
        self.gave_up = Some(now);
        Some((path.id, Change::Died(now.saturating_duration_since(self.heard.last?))))
    }

    /// A path that a peer in good health never mentions does not reach it.
    fn unmentioned(&mut self, now: Instant, resumed: Option<Instant>) -> Vec<(PathId, Change)> {
        let mut changes = Vec::new();
        if self.silent_from(resumed).is_none_or(|from| now.saturating_duration_since(from) >= SILENCE) {
            return changes;
        }
        let heard_since = self.heard_since.max(resumed);
        for path in &mut self.paths {
            let Some(started) = path.started.filter(|_| path.state == PathState::Unknown) else { continue };
            if heard_since.is_some_and(|since| started.max(since) + UNKNOWN_GRACE <= now) {
                path.die(now);
                changes.push((path.id, Change::Died(now.saturating_duration_since(started))));
            }
        }
        changes
    }

    /// See [`Liveness::is_overdue`](super::Liveness::is_overdue).
    pub(super) fn is_overdue(&self, now: Instant, id: PathId) -> bool {
        let unknown = self.paths.iter().find(|path| path.id == id && path.state == PathState::Unknown);
        let Some(started) = unknown.and_then(|path| path.started) else { return false };
        let others = self.paths.iter().filter(|path| path.state == PathState::Alive);
        let is_long_ago = |reported: Instant| now.saturating_duration_since(reported.max(started)) >= SILENCE;
        others.filter_map(|path| path.first_reported).any(is_long_ago)
    }

    /// When time alone changes something next after `last`, or a hello is due.
    pub(super) fn next_timeout(&self, last: Option<Instant>, resumed: Option<Instant>) -> Option<Instant> {
        let next_send = self.paths.iter().map(|path| path.next_send).min()?;
        let deadlines =
            [self.silence_deadline(resumed), self.doubt_deadline(resumed), self.heard.urgent_at(resumed)];
        let asked = self.paths.iter().filter_map(|path| path.questions.poll_timeout());
        let told = self.paths.iter().filter_map(OwnPath::told_until);
        let alive = self.paths.iter().filter(|path| path.state == PathState::Alive);
        let quiet = alive.filter_map(|path| self.quiet_at(resumed, path)).filter(|&at| Some(at) > last);
        let asked = asked.filter(|&at| Some(at) > last);
        Some(
            deadlines
                .into_iter()
                .flatten()
                .chain(told)
                .chain(quiet)
                .chain(asked)
                .fold(next_send, Instant::min),
        )
    }

    /// When silence makes a path suspect: as soon as it would be by reports.
    fn doubt_deadline(&self, resumed: Option<Instant>) -> Option<Instant> {
        let mut not_dead = self.paths.iter().filter(|path| path.state != PathState::Dead);
        let used = not_dead.next().filter(|path| path.state == PathState::Alive && !path.is_suspect)?;
        not_dead.next()?;
        Some(self.silent_from(resumed)? + SUSPECT_SILENCE + used.lateness())
    }

    /// When silence takes a path: never if the peer has not been heard, or if there is none left to change to.
    fn silence_deadline(&self, resumed: Option<Instant>) -> Option<Instant> {
        let not_dead = self.paths.iter().filter(|path| path.state != PathState::Dead).count();
        let from = self.silent_from(resumed)?;
        let from = self.gave_up.map_or(from, |gave_up| gave_up.max(from));
        if not_dead >= 2 { Some(from + SILENCE) } else { None }
    }

    /// See [`Liveness::out_of_touch`](super::Liveness::out_of_touch).
    pub(super) fn out_of_touch(
        &self,
        now: Instant,
        resumed: Option<Instant>,
        traffic: Option<Instant>,
    ) -> Option<Duration> {
        let watched_since = self.watched_since?;
        let heard = self.heard.last?;
        let in_touch = if now.saturating_duration_since(heard) < SILENCE {
            // It speaks, and says what it hears of us.
            self.reached.unwrap_or(watched_since)
        } else {
            traffic.map_or(heard, |traffic| traffic.max(heard))
        };
        // What we began to listen for only then may take two long round trips to come.
        let listening = resumed.map_or(watched_since, |resumed| resumed.max(watched_since));
        let from = if in_touch < listening { listening + (UNKNOWN_GRACE - SILENCE) } else { in_touch };
        Some(now.saturating_duration_since(from))
    }

    /// From when on nothing has been heard although we listened. `None` if it never has been.
    fn silent_from(&self, resumed: Option<Instant>) -> Option<Instant> {
        let last = self.heard.last?;
        Some(resumed.map_or(last, |resumed| resumed.max(last)))
    }

    fn is_heard(&self, now: Instant) -> bool {
        self.heard.last.is_some_and(|last| now.saturating_duration_since(last) < HEARD_MEMORY)
    }

    /// Whether paths are followed only because of a peer that has fallen silent.
    pub(super) fn is_return_over(&self, now: Instant) -> bool {
        !self.is_heard(now)
            && self
                .paths
                .iter()
                .any(|path| !self.in_use.contains(&path.id) && !self.watched.contains(&path.id))
    }

    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        self.in_use.is_empty() && self.watched.is_empty() && self.when_heard.is_empty() && !self.is_heard(now)
    }

    /// Follows the wanted paths, at most `room` of them, and notes how many have no room.
    pub(super) fn refresh(&mut self, origin: Instant, now: Instant, room: usize) {
        let returns: &[PathId] = if self.is_heard(now) { &self.when_heard } else { &[] };
        let mut wanted: Vec<PathId> = Vec::new();
        for &id in self.in_use.iter().chain(&self.watched).chain(returns) {
            if !wanted.contains(&id) {
                wanted.push(id);
            }
        }
        self.refused = wanted.len().saturating_sub(room) as u64;
        wanted.truncate(room);
        let mut before = std::mem::take(&mut self.paths);
        for (place, id) in wanted.into_iter().enumerate() {
            let path = match before.iter().position(|path| path.id == id) {
                Some(kept) => before.swap_remove(kept),
                // Every second path half an interval later: reports then reach the peer every 25 ms.
                None => OwnPath::new(id, origin, now, now + INTERVAL / 2 * (place as u32 % 2)),
            };
            self.paths.push(path);
        }
        self.watched_since = if self.paths.is_empty() { None } else { self.watched_since.or(Some(now)) };
    }
}
