//! Which paths are alive, end to end and per direction, from hellos (`docs/protocol.md` section 6).
//!
//! We send hellos at 20 Hz over every path in use; the peer at the end says in its own hellos which of them it has heard. So we learn
//! about *our* sending paths from the peer's reports, whichever way those come back, and say nothing about the peer's paths but what
//! we have heard. A path has one of three states: unknown, alive, dead; the rules stand in the protocol page. Which path a route
//! handle then uses is decided elsewhere, as are sockets, keys and source routes.
//!
//! **Total silence.** When nothing at all comes from a peer, no report can say which path is broken: it may be ours (then the peer hears
//! us no more), the peer's (then ours may be fine), or the peer itself. Trying another path can help in the first case and harms
//! in none as long as there is one to try. So the first path in order of preference that is not dead is given up after six intervals of
//! silence, the next after six more, but never the last: it stays what it was, and traffic has a path to stay on.
//!
//! **Suspicion.** Five hellos missing are certain enough to leave a path, and a quarter of a second late for whoever talks over it. So two
//! make an alive path *suspect*: what goes over it is to go over another one as well until it is dead or known to be alive. How late a
//! hello may be for that follows from the jitter that was measured.
//!
//! **What others say.** A transit PoP that has lost a link says so ([`Liveness::handle_link_down`]). Its word makes a path suspect, and confirms the
//! suspicion that the path's own hellos raise; alone it kills nothing, so that one who lies, or is mistaken, costs some copies.
//!
//! **Sizes.** Some hellos are padded: what they find out about large packets is in `mtu`.
//!
//! **Grades.** How many of the latest hellos were lost makes an alive path *lossy* or *grey*; see `quality`.
//!
//! **Pauses.** A process that was stopped finds old packets in its sockets and old times in its tables. The pause of one side must not
//! look like a dead path to either: an own gap of four intervals between calls is noticed ([`Liveness`] is polled at least every 50 ms while it
//! has paths) and is part of no silence and no age; only hellos that were really sent can be missed.
//!
//! After every input call [`Liveness::poll_hello`] and [`Liveness::poll_event`] until they give nothing, then wait until
//! [`Liveness::poll_timeout`].

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use l4proxy_wire::DropReason;
use l4proxy_wire::hello::Hello;
use l4proxy_wire::ids::{PathId, PopId};

use crate::keys::KeyGeneration;
use crate::liveness::path::{Change, OwnPath};
use crate::liveness::peer::Peer;
pub use crate::liveness::presence::{AWAY_AFTER, LOST_AFTER, Presence};

mod heard;
mod mtu;
mod path;
mod peer;
mod presence;
mod quality;
mod questions;
mod rtt;
#[cfg(test)]
mod tests;

/// Between two hellos of a path: 20 Hz finds a cut within some 300 ms and costs 15 kbit/s.
pub const INTERVAL: Duration = crate::sequence::MIN_INTERVAL;

/// Paths over which hellos are sent, at most, in all. 40 at 20 Hz are 800 packets a second, some percent of a core.
pub const MAX_PATHS: usize = 40;

/// Peers that are remembered, at most; more than any fleet has.
const MAX_PEERS: usize = 1_024;

/// Nothing heard from a peer for this long is silence: six intervals, as long as it takes to find a path dead by reports.
const SILENCE: Duration = INTERVAL.saturating_mul(6);

/// Nothing heard from a peer for this long, and the jitter of a path, is a reason to doubt the path.
const SUSPECT_SILENCE: Duration = INTERVAL.saturating_mul(2);

/// A gap this long between two calls is a pause of our own. Shorter ones add too little to an age to kill a path.
const PAUSE: Duration = INTERVAL.saturating_mul(4);

/// A peer that hears us, and is heard, mentions a new path within this time: two long round trips.
const UNKNOWN_GRACE: Duration = Duration::from_secs(1);

/// How long a peer that was heard is answered, and a path of it reported, after it falls silent.
const HEARD_MEMORY: Duration = Duration::from_secs(10);

/// Events that wait to be polled, at most: every path can die and revive three times in between.
const MAX_EVENTS: usize = 256;

/// What is known of a path of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathState {
    /// Not reported by the peer yet, or no hellos are sent over it.
    Unknown,
    /// The peer hears it.
    Alive,
    /// The peer does not hear it.
    Dead,
}

/// How good a path is that is alive, as far as its hellos tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathQuality {
    /// It may have died: what goes over it is to go over another one as well.
    pub is_suspect: bool,
    /// It loses two packets in a hundred or more, not by our own load.
    pub is_lossy: bool,
    /// It loses so many that any path without that is better.
    pub is_grey: bool,
    /// It has come back after it had died several times: any other path is better for a while, up to a minute.
    pub is_on_probation: bool,
    /// It is dead, and a hello over it has just been heard: if all are dead, this one is worth a try.
    pub shows_life: bool,
    /// It drops large packets, of 1,200 bytes, and small ones pass.
    pub drops_large: bool,
    /// The largest packet that is known to pass, in bytes, without the outer header.
    pub mtu: u16,
    /// Of the latest hundred hellos, how many were lost, and of how many if there were fewer.
    pub lost: (u32, u32),
}

impl Default for PathQuality {
    /// What is assumed of a path that is not followed.
    fn default() -> Self {
        Self {
            is_suspect: false,
            is_lossy: false,
            is_grey: false,
            is_on_probation: false,
            shows_life: false,
            drops_large: false,
            mtu: mtu::PathMtu::new().size(),
            lost: (0, 0),
        }
    }
}

/// A hello to encode with the probe key of `peer` and to send over `hello.path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloToSend {
    /// Who is to hear it.
    pub peer: PopId,
    /// Its contents.
    pub hello: Hello,
    /// How long it is to be, in bytes, if it is to be padded.
    pub padded_to: Option<u16>,
}

/// A path has changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer does not hear it any more, or never did.
    PathDead {
        /// Where the path ends.
        peer: PopId,
        /// Which.
        path: PathId,
        /// For how long it had not been heard.
        silence: Duration,
    },
    /// The peer hears it.
    PathAlive {
        /// Where the path ends.
        peer: PopId,
        /// Which.
        path: PathId,
        /// For how long it was dead; zero for one that was unknown.
        silence: Duration,
    },
    /// It is alive, and the peer does not hear it for the moment.
    PathSuspect {
        /// Where the path ends.
        peer: PopId,
        /// Which.
        path: PathId,
        /// For how long it had not been heard.
        silence: Duration,
    },
    /// The peer does hear it after all.
    PathTrusted {
        /// Where the path ends.
        peer: PopId,
        /// Which.
        path: PathId,
    },
    /// Something in its [`PathQuality`] has changed.
    PathGraded {
        /// Where the path ends.
        peer: PopId,
        /// Which.
        path: PathId,
    },
}

/// What the bounds have refused since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LivenessCounters {
    /// Paths that were to be followed when 40 were already; they are once there is room.
    pub paths_full: u64,
    /// Times a peer's paths were to be followed and the table of peers was full.
    pub peers_full: u64,
    /// Events that nobody had polled and that made room for newer ones.
    pub events_full: u64,
}

/// Liveness of all paths of this PoP.
#[derive(Debug)]
pub struct Liveness {
    own: PopId,
    origin: Instant,
    peers: BTreeMap<PopId, Peer>,
    events: VecDeque<Event>,
    counters: LivenessCounters,
    last_call: Option<Instant>,
    /// When our own last pause ended.
    resumed: Option<Instant>,
}

impl Liveness {
    /// Without paths. `origin` is when the process started: it must be the same for every instance in the process's life, because it
    /// is what keeps sequences from being used twice under one key.
    pub const fn new(own: PopId, origin: Instant) -> Self {
        Self {
            own,
            origin,
            peers: BTreeMap::new(),
            events: VecDeque::new(),
            counters: LivenessCounters { paths_full: 0, peers_full: 0, events_full: 0 },
            last_call: None,
            resumed: None,
        }
    }

    /// Hellos are sent over these paths to `peer` until the next call: primary and first backup of each route handle in use, in
    /// order of preference. A path that stays keeps its state; an empty list ends it.
    pub fn set_paths(&mut self, now: Instant, peer: PopId, paths: &[PathId]) {
        self.configure(now, peer, |peer| peer.in_use = paths.to_vec());
    }

    /// Hellos are sent over these as well while `peer` is heard and for 10 s after, so that it learns what has come of its own even
    /// when nothing of ours goes to it: primary and first backup of the handle that answers would take.
    pub fn set_return_paths(&mut self, now: Instant, peer: PopId, paths: &[PathId]) {
        self.configure(now, peer, |peer| peer.when_heard = paths.to_vec());
    }

    fn configure(&mut self, now: Instant, id: PopId, change: impl FnOnce(&mut Peer)) {
        self.advance(now);
        let Some(peer) = peer_entry(&mut self.peers, id) else {
            self.counters.peers_full += 1;
            return;
        };
        change(peer);
        self.refresh_after_change(now, id);
        self.apply_time(now);
        self.forget_peers(now);
    }

    /// Takes a hello that was authenticated with the key of `generation`.
    ///
    /// # Errors
    /// `hello_replayed`, `hello_full`.
    pub fn handle_hello(
        &mut self,
        now: Instant,
        generation: KeyGeneration,
        hello: &Hello,
    ) -> Result<(), DropReason> {
        self.advance(now);
        if self.peers.len() >= MAX_PEERS {
            self.forget_peers(now);
        }
        let resumed = self.resumed;
        let peer = peer_entry(&mut self.peers, hello.source).ok_or(DropReason::HelloFull)?;
        let is_new = peer.on_hello(now, resumed, generation, hello)?;
        let changes = peer.on_reports(now, resumed, hello);
        for (path, change) in changes {
            self.push_event(hello.source, path, change);
        }
        if is_new {
            self.refresh(now, hello.source);
        }
        Ok(())
    }

    /// A PoP on a path of ours to `peer` says that packets of this path do not arrive. It is believed for a while: the path is suspect at once, and
    /// dead as soon as its own hellos raise the suspicion too, if there is another one that nothing is said against. False: the path is not
    /// followed, so nothing comes of it here.
    pub fn handle_link_down(&mut self, now: Instant, peer: PopId, path: PathId) -> bool {
        self.advance(now);
        let Some(changes) = self.peers.get_mut(&peer).and_then(|known| known.on_told(now, path)) else {
            return false;
        };
        for (path, change) in changes {
            self.push_event(peer, path, change);
        }
        true
    }

    /// Hellos are sent over these paths of one link each as well until the next call, because others send over them. As soon as two hellos of
    /// such a link are missing, or its end is silent, four more ask at once.
    pub fn set_watched(&mut self, now: Instant, peer: PopId, links: &[PathId]) {
        if self.peers.get(&peer).map_or(links.is_empty(), |known| known.watched == links) {
            return;
        }
        self.configure(now, peer, |peer| peer.watched = links.to_vec());
    }

    /// Whether a watched link has been lost: nothing answered a volley of hellos, or it is dead. Whether that is the link's fault, the way's
    /// back or the peer's cannot be told from here; those who send over it ask the PoP at the end of their paths.
    pub fn is_link_lost(&self, peer: PopId, link: PathId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.is_link_lost(link))
    }

    /// The next hello that is due.
    pub fn poll_hello(&mut self, now: Instant) -> Option<HelloToSend> {
        self.advance(now);
        for (&id, peer) in &mut self.peers {
            let Some(path) = peer.paths.iter_mut().find(|path| path.is_due(now)) else { continue };
            let (path, (sequence, padded_to)) = (path.id, path.send(now));
            let hello = Hello {
                source: self.own,
                path,
                sequence,
                sent_us: now.saturating_duration_since(self.origin).as_micros() as u64,
                reports: peer.heard.reports(now, self.resumed),
            };
            return Some(HelloToSend { peer: id, hello, padded_to });
        }
        None
    }

    /// The next change of a path's state, in the order they happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to poll next; `None` while there are no paths.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers.values().filter_map(|peer| peer.next_timeout(self.last_call, self.resumed)).min()
    }

    /// The state of a path to `peer`.
    pub fn path_state(&self, peer: PopId, path: PathId) -> PathState {
        self.find_path(peer, path).map_or(PathState::Unknown, |path| path.state)
    }

    /// How good a path to `peer` is; nothing is wrong with one that is not followed.
    pub fn path_quality(&self, peer: PopId, path: PathId) -> PathQuality {
        self.find_path(peer, path).map_or_else(PathQuality::default, |path| PathQuality {
            is_suspect: path.is_doubted(),
            is_lossy: path.quality.is_lossy(),
            is_grey: path.quality.is_grey(),
            shows_life: self.last_call.is_some_and(|now| path.shows_life(now)),
            drops_large: path.mtu.drops_large(),
            mtu: path.mtu.size(),
            is_on_probation: path.probation_until > self.last_call,
            lost: path.quality.lost().unwrap_or_default(),
        })
    }

    /// Whether a path of which nothing is known should have been mentioned by now: another one to `peer`, no older than it, has been known to
    /// be alive for six intervals. It may only be slow, so it is not dead yet; but the other one is there.
    pub fn is_overdue(&self, now: Instant, peer: PopId, path: PathId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.is_overdue(now, path))
    }

    /// The smoothed time there over `path` and back over the peer's fastest path.
    pub fn path_rtt(&self, peer: PopId, path: PathId) -> Option<Duration> {
        self.find_path(peer, path)?.rtt()
    }

    /// When `peer` was heard last, over whichever path.
    pub fn last_heard(&self, peer: PopId) -> Option<Instant> {
        self.peers.get(&peer)?.heard.last
    }

    /// For how long nothing has said that packets pass between us and `peer` both ways, over any path; own pauses do not count. `None`:
    /// no hellos are sent to it, or it was never heard, so nothing can be said.
    ///
    /// `traffic` is when anything else of the peer came last. It counts where hellos do not come: a peer that cannot follow our paths, its
    /// table being full, sends none.
    pub fn out_of_touch(&self, now: Instant, peer: PopId, traffic: Option<Instant>) -> Option<Duration> {
        self.peers.get(&peer)?.out_of_touch(now, self.resumed, traffic)
    }

    /// What the bounds have refused since the start.
    pub const fn counters(&self) -> LivenessCounters {
        self.counters
    }

    fn find_path(&self, peer: PopId, path: PathId) -> Option<&OwnPath> {
        self.peers.get(&peer)?.paths.iter().find(|own| own.id == path)
    }

    /// Notices a pause of our own, then applies the rules that time alone sets off.
    fn advance(&mut self, now: Instant) {
        let since = self.last_call.map(|last| now.saturating_duration_since(last));
        if since == Some(Duration::ZERO) {
            return;
        }
        if since.is_some_and(|gap| gap >= PAUSE) {
            self.resumed = Some(now);
        }
        self.last_call = Some(now);
        let silent: Vec<PopId> =
            self.peers.iter().filter(|(_, peer)| peer.is_return_over(now)).map(|(&id, _)| id).collect();
        for peer in silent {
            self.refresh_after_change(now, peer);
        }
        self.apply_time(now);
    }

    /// Applies the rules that no report sets off. After every change of paths too: a second path to a silent peer is one to change to.
    fn apply_time(&mut self, now: Instant) {
        let mut changes = Vec::new();
        for (&id, peer) in &mut self.peers {
            changes.extend(peer.on_time(now, self.resumed).map(|(path, change)| (id, path, change)));
        }
        for (peer, path, change) in changes {
            self.push_event(peer, path, change);
        }
    }

    /// Makes the paths of a peer those that are wanted; what stays keeps its state, what is new gets a place if there is one.
    fn refresh(&mut self, now: Instant, id: PopId) {
        let elsewhere: usize =
            self.peers.iter().filter(|&(&other, _)| other != id).map(|(_, peer)| peer.paths.len()).sum();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let refused_before = peer.refused;
        peer.refresh(self.origin, now, MAX_PATHS.saturating_sub(elsewhere));
        self.counters.paths_full += peer.refused.saturating_sub(refused_before);
    }

    /// Makes the paths of a peer those that are wanted, then lets those that had no room try again.
    fn refresh_after_change(&mut self, now: Instant, id: PopId) {
        self.refresh(now, id);
        let waiting: Vec<PopId> =
            self.peers.iter().filter(|(_, peer)| peer.refused > 0).map(|(&other, _)| other).collect();
        for other in waiting {
            self.refresh(now, other);
        }
    }

    /// Forgets peers that nobody has configured and nobody has heard for a while.
    fn forget_peers(&mut self, now: Instant) {
        self.peers.retain(|_, peer| !peer.is_forgettable(now));
    }

    fn push_event(&mut self, peer: PopId, path: PathId, change: Change) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
            self.counters.events_full += 1;
        }
        self.events.push_back(match change {
            Change::Died(silence) => Event::PathDead { peer, path, silence },
            Change::Revived(silence) => Event::PathAlive { peer, path, silence },
            Change::Suspected(silence) => Event::PathSuspect { peer, path, silence },
            Change::Trusted => Event::PathTrusted { peer, path },
            Change::Graded => Event::PathGraded { peer, path },
        });
    }
}

/// The entry of a peer, made if there is room.
fn peer_entry(peers: &mut BTreeMap<PopId, Peer>, id: PopId) -> Option<&mut Peer> {
    if peers.len() >= MAX_PEERS && !peers.contains_key(&id) {
        return None;
    }
    Some(peers.entry(id).or_default())
}
