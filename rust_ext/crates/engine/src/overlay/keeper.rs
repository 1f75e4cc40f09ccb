//! What there is once per PoP, kept by worker 0: pair connections, probes of links, hellos over paths, and with them the choice of the
//! path that each handle takes. The machines of `proto` decide; this feeds them and carries out what they say.
//!
//! Which path a handle takes is decided in `choice`. Hellos go over the primary path and the first backup of every handle that traffic used
//! in the last [`IN_USE_MS`], and of every peer that sends us hellos; while a peer is out of touch, over those of all handles to it that have
//! connections, so that it is known what becomes of it.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use l4proxy_proto::keys::{open_hello, open_probe};
use l4proxy_proto::liveness::{self, HelloToSend, Liveness, PathState};
use l4proxy_proto::probe::{IncomingLink, ProbeLink, Prober, Responder};
use l4proxy_tunnel::Role;
use l4proxy_wire::DropReason;
use l4proxy_wire::ids::{LinkId, PathId, PopId};
use l4proxy_wire::probe::Probe;

use super::choice::choose;
use super::outbound::{Places, claimed_prober};
use super::pairs::Pairs;
use super::presence::{Judged, Peers};
use super::receive::Arrival;
use super::shared::OverlayShared;
use super::tables::{Handle, OverlayTables, Path};
use super::transit::Transit;
use super::{Overlay, OverlayReport, Presence};

/// A handle that no traffic used for this long is not watched by hellos; probes of its links go on.
const IN_USE_MS: u64 = 10_000;

/// How often the handles in use are looked up again: a flow that starts is watched after this at the latest.
const REVIEW_EVERY: Duration = Duration::from_millis(100);

/// Paths of a handle that are watched: the primary and its first backup.
const WATCHED_PATHS: usize = 2;

/// What worker 0 keeps for the whole PoP.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) pairs: Pairs,
    pub(super) prober: Prober,
    responder: Responder,
    pub(super) liveness: Liveness,
    pub(super) judged: Judged,
    pub(super) transit: Transit,
    pub(super) places: Places,
    review_at: Instant,
}

impl Keeper {
    /// `now` is the present, `origin` when the engine started: sequences of probes and hellos are counted from it, so that a worker
    /// that is started again uses none twice under the same keys.
    pub(super) fn new(own: PopId, now: Instant, origin: Instant) -> Self {
        Self {
            pairs: Pairs::default(),
            prober: Prober::new(origin),
            responder: Responder::new(),
            liveness: Liveness::new(own, origin),
            judged: Judged::default(),
            transit: Transit::new(own, origin),
            places: Places::default(),
            review_at: now,
        }
    }

    /// A snapshot has come into force.
    pub(super) fn apply(&mut self, now: Instant, tables: &OverlayTables, shared: &OverlayShared) {
        let dialled: Vec<_> = tables.peers.iter().filter(|peer| peer.dial).map(|peer| peer.id).collect();
        self.pairs.set_peers(now, &dialled);
        let incoming: Vec<_> =
            tables.incoming_links().map(|link| IncomingLink { id: link.id, peer: link.peer }).collect();
        self.responder.set_links(&incoming);
        self.places.keep(tables, shared);
        self.set_probed_links(now, tables, shared);
        self.transit.apply(tables);
        self.review_at = now;
    }

    /// Links are probed once there is a key for it: before, nothing can be learned.
    pub(super) fn set_probed_links(&mut self, now: Instant, tables: &OverlayTables, shared: &OverlayShared) {
        let keys = shared.keys.load();
        let links: Vec<_> = tables
            .links
            .iter()
            .filter(|link| keys.probe.find_send(link.peer).is_some())
            .map(|link| ProbeLink {
                id: link.id,
                peer: link.peer,
                interval: Duration::from_millis(u64::from(link.probe_interval_ms)),
            })
            .collect();
        self.prober.set_links(now, &links);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = [
            self.pairs.poll_timeout(),
            self.prober.poll_timeout(),
            self.liveness.poll_timeout(),
            self.transit.link_downs.poll_timeout(),
        ];
        deadlines.into_iter().flatten().chain([self.review_at]).min()
    }

    /// Watch the paths of the handles in use, and over what a peer that watches its own is told what became of them.
    fn review(&mut self, now: Instant, tables: &OverlayTables, peers: &Peers, shared: &OverlayShared) {
        let clock_ms = shared.clock_ms(now);
        let mut followed = 0;
        for peer in &tables.peers {
            let handles = || tables.handles().filter(|handle| handle.peer == peer.id);
            let is_doubtful = peers.judged(peer.id) != Presence::Present;
            let used = |handle: &&Handle| {
                let used_at_ms = handle.state.used_at_ms.load(Ordering::Relaxed);
                (used_at_ms != 0 && clock_ms.saturating_sub(used_at_ms) <= IN_USE_MS)
                    || (is_doubtful && handle.state.connections.load(Ordering::Relaxed) > 0)
            };
            let mut in_use = Vec::new();
            add_watched(&mut in_use, handles().filter(used));
            let mut when_heard = Vec::new();
            add_watched(&mut when_heard, tables.handle_for(peer.id, "off").into_iter());
            followed += in_use.len() + when_heard.iter().filter(|path| !in_use.contains(path)).count();
            self.liveness.set_paths(now, peer.id, &in_use);
            self.liveness.set_return_paths(now, peer.id, &when_heard);
        }
        self.watch_links(now, tables, shared.take_uses(), followed);
    }

    /// Whether what goes over a path of which hellos say nothing yet is thought to be lost: another one to the same peer has been heard of
    /// for a while, or the PoP at the end of its first link is out of touch.
    fn is_doubtful(
        &self,
        now: Instant,
        peer: PopId,
        path: &Path,
        tables: &OverlayTables,
        peers: &Peers,
    ) -> bool {
        let first = || tables.links.get(path.first_link).map(|link| link.peer);
        self.liveness.path_state(peer, path.id) == PathState::Unknown
            && (self.liveness.is_overdue(now, peer, path.id)
                || self.transit.is_told(now, peer, path.id)
                || first().is_some_and(|first| peers.judged(first) != Presence::Present))
    }
}

/// Add the paths of these handles that hellos go over, in order of preference: all primaries, then first backups, then what packets
/// take if it is another.
fn add_watched<'a>(paths: &mut Vec<PathId>, handles: impl Iterator<Item = &'a Handle> + Clone) {
    let by_place = (0..WATCHED_PATHS)
        .flat_map(|place| handles.clone().filter_map(move |handle| handle.paths.get(place)));
    for path in by_place.chain(handles.clone().filter_map(Handle::active_path)) {
        if !paths.contains(&path.id) {
            paths.push(path.id);
        }
    }
}

impl Overlay {
    /// Do what is due of the keeper's work, on worker 0.
    pub(super) fn pump_keeper(&mut self, now: Instant, wall_clock_ns: u64) {
        let Some(mut keeper) = self.keeper.take() else { return };
        self.dial_pairs(now, &mut keeper);
        while let Some(probe) = keeper.prober.poll_probe(now, wall_clock_ns) {
            let asked = keeper.places.ask(&self.tables, probe.request.link, probe.request.sequence);
            self.send_probe(probe.peer, &Probe::Request(probe.request), asked);
        }
        // What has arrived was read before: a reply that waited in the socket is not taken for lost.
        while let Some(sample) = keeper.prober.poll_lost(now) {
            // A process that was started again has no key to answer with: the pair connection tells that from a link that lost something.
            if let Some(link) = self.tables.link_index(sample.link) {
                self.nudge_pairs(self.tables.links[link].peer);
            }
            self.report(OverlayReport::Sample(sample));
        }
        if now >= keeper.review_at {
            keeper.review_at = now + REVIEW_EVERY;
            keeper.review(now, &self.tables, &self.peers, &self.shared);
            self.judge_peers(now, &mut keeper);
            self.point_handles(now, &keeper, 0, &[]);
        }
        self.pump_liveness(now, &mut keeper);
        self.pump_transit(now, &mut keeper);
        self.keeper = Some(keeper);
    }

    fn dial_pairs(&mut self, now: Instant, keeper: &mut Keeper) {
        while let Some(peer) = keeper.pairs.poll_dial(now) {
            let hint = self.hint_of(now, self.tables.handle_for(peer, "off"));
            match self.tunnels.connect_over(now, peer, Role::Pair, "off", hint) {
                Ok(key) => {
                    self.connections.insert_plain(key, peer, &self.tables);
                    keeper.pairs.on_dialled(now, peer, key);
                }
                // No identity yet, or no place: try again later.
                Err(_) => keeper.pairs.on_failed(now, peer),
            }
        }
        while self.transmit_one(now) {}
    }

    fn pump_liveness(&mut self, now: Instant, keeper: &mut Keeper) {
        let mut silence = Duration::ZERO;
        let mut has_changed = false;
        let mut revived = Vec::new();
        while let Some(event) = keeper.liveness.poll_event() {
            has_changed = true;
            match event {
                liveness::Event::PathDead { peer, path, silence: silent } => {
                    silence = silence.max(silent);
                    let links = self.tables.links_of_path(peer, path);
                    self.report(OverlayReport::PathDead { peer, path, links });
                }
                liveness::Event::PathAlive { peer, path, silence } => {
                    // One that nothing was known of was not silent.
                    if !silence.is_zero() {
                        revived.push((peer, path));
                    }
                    let links = self.tables.links_of_path(peer, path);
                    self.report(OverlayReport::PathAlive { peer, path, links });
                }
                liveness::Event::PathSuspect { .. } => self.totals.suspicions += 1,
                liveness::Event::PathTrusted { .. } => {}
                liveness::Event::PathGraded { peer, path } => {
                    let quality = keeper.liveness.path_quality(peer, path);
                    let links = self.tables.links_of_path(peer, path);
                    self.report(OverlayReport::PathGraded { peer, path, links, quality });
                }
            }
        }
        if has_changed {
            let silence_us = u64::try_from(silence.as_micros()).unwrap_or(u64::MAX);
            self.point_handles(now, keeper, silence_us, &revived);
        }
        while let Some(hello) = keeper.liveness.poll_hello(now) {
            self.send_hello(&hello);
        }
    }

    /// Point every handle to the path that it should take. What was on its way over a path that died, that may have died, or that has just
    /// come back to life, is lost; a path that is left while it lives still delivers, and what went over two paths is not sent a third time.
    fn point_handles(&mut self, now: Instant, keeper: &Keeper, silence_us: u64, revived: &[(PopId, PathId)]) {
        let tables = self.tables.clone();
        for handle in tables.handles() {
            let is_doubtful = |path: &Path| keeper.is_doubtful(now, handle.peer, path, &tables, &self.peers);
            let choice = choose(&keeper.liveness, handle, is_doubtful);
            let (Some(before), Some(choice)) = (handle.active_path(), choice) else { continue };
            let is_before_doubtful = is_doubtful(before);
            let copied_before = handle.copy_path().map(|path| path.id);
            let after = choice.active;
            let copied = choice.copy.map(|path| path.id);
            let state = &handle.state;
            state.active.store(after.id.0, Ordering::Release);
            state.copy.store(copied.map_or(0, |id| id.0), Ordering::Release);
            state.second.store(choice.second.map_or(0, |path| path.id.0), Ordering::Release);
            state.is_lossy.store(choice.is_lossy, Ordering::Relaxed);
            let has_moved = before.id != after.id;
            if has_moved {
                state.path_changes.fetch_add(1, Ordering::Relaxed);
            }
            state.mtu.store(choice.mtu, Ordering::Relaxed);
            let is_dead = is_before_doubtful
                || keeper.liveness.path_state(handle.peer, before.id) == PathState::Dead
                || keeper.liveness.path_quality(handle.peer, before.id).drops_large;
            let is_left_dead = has_moved && is_dead && copied_before != Some(after.id);
            let has_come_back = !has_moved && revived.contains(&(handle.peer, before.id));
            let is_newly_copied = copied.is_some() && copied != copied_before;
            if is_left_dead || has_come_back || is_newly_copied {
                state.outages.fetch_add(1, Ordering::AcqRel);
            }
            if has_moved || is_left_dead || has_come_back || is_newly_copied {
                self.shared.on_path_change();
                self.has_alarm = true;
            }
            if !has_moved {
                continue;
            }
            if handle.state.connections.load(Ordering::Relaxed) > 0 {
                self.report(OverlayReport::HandleMoved {
                    peer: handle.peer,
                    policy: handle.policy.clone(),
                    from: before.links.clone(),
                    to: after.links.clone(),
                    silence_us,
                });
            }
        }
    }

    fn send_hello(&mut self, send: &HelloToSend) {
        let (tables, keys) = (self.tables.clone(), self.shared.keys.load_full());
        let (peer, hello) = (send.peer, &send.hello);
        let (Some(key), Some(path)) = (keys.probe.find_send(peer), tables.path(peer, hello.path)) else {
            return;
        };
        match send.padded_to {
            None => self.send_over(path, hello.encode(&key.key, key.epoch).as_slice(), None, 0),
            Some(length) => {
                let packet = hello.encode_padded(&key.key, key.epoch, length.into());
                self.send_over(path, &packet, None, 0);
            }
        }
    }

    /// Send a probe packet over its link, or between two other addresses.
    fn send_probe(&mut self, peer: PopId, probe: &Probe, between: Option<(SocketAddr, SocketAddr)>) {
        let (tables, keys) = (self.tables.clone(), self.shared.keys.load_full());
        let Some(key) = keys.probe.find_send(peer) else {
            return self.drop_packet(DropReason::ProbeNoKey.as_str());
        };
        let packet = probe.encode(&key.key, key.epoch);
        match (between, tables.link_index(probe.link())) {
            (Some((local, remote)), _) => self.send_to(local, remote, &packet, None, 0),
            (None, Some(link)) => self.send_over_link(link, &[], &packet, None, 0),
            (None, None) => self.drop_packet(DropReason::ProbeLink.as_str()),
        }
    }

    /// Send a reply over the exact reverse of the link that the request came over.
    fn answer_probe(&mut self, peer: PopId, reply: &Probe, arrival: Arrival) {
        let is_link = self.tables.moving(reply.link()).is_some()
            || self.tables.reverse_link(arrival.local, arrival.source).is_some();
        if is_link {
            self.send_probe(peer, reply, Some((arrival.local, arrival.source)));
        } else {
            self.drop_packet(DropReason::ProbeLink.as_str());
        }
    }

    pub(super) fn handle_hello(&mut self, now: Instant, arrival: Option<Arrival>, packet: &[u8]) {
        let keys = self.shared.keys.load();
        let opened = open_hello(packet, &keys.probe);
        let Some(keeper) = &mut self.keeper else { return self.drop_packet("misrouted") };
        let outcome = opened.and_then(|(hello, generation)| {
            keeper.liveness.handle_hello(now, generation, &hello)?;
            Ok((hello.source, LinkId(hello.path.0)))
        });
        match (outcome, arrival) {
            // A path of one link has the link's id.
            (Ok((peer, link)), Some(arrival)) => keeper.heard_over(now, &self.tables, peer, link, arrival),
            (Ok(_), None) => {}
            (Err(reason), _) => self.drop_packet(reason.as_str()),
        }
    }

    pub(super) fn handle_probe(&mut self, now: Instant, sender: PopId, arrival: Arrival, packet: &[u8]) {
        let peer = claimed_prober(&self.tables, sender, arrival, packet);
        let keys = self.shared.keys.load();
        let opened = open_probe(packet, peer, &keys.probe);
        let Some(keeper) = &mut self.keeper else { return self.drop_packet("misrouted") };
        let outcome = opened.and_then(|(probe, generation)| match probe {
            Probe::Request(request) => keeper
                .responder
                .handle_request(peer, generation, &request, arrival.received_ns, arrival.handled_ns)
                .map(|reply| Outcome::Answer(Probe::Reply(reply))),
            Probe::Reply(reply) => {
                keeper.prober.handle_reply(now, peer, &reply, arrival.received_ns).map(Outcome::Learn)
            }
        });
        match outcome {
            Ok(Outcome::Answer(reply)) => {
                keeper.heard_over(now, &self.tables, peer, reply.link(), arrival);
                self.answer_probe(peer, &reply, arrival);
            }
            Ok(Outcome::Learn(sample)) => {
                if keeper.places.on_answer(&self.tables, &self.shared, &sample, arrival) {
                    self.totals.address_moves += 1;
                }
                self.report(OverlayReport::Sample(sample));
            }
            Err(reason) => self.drop_packet(reason.as_str()),
        }
    }
}

/// What follows from a probe packet.
enum Outcome {
    Answer(Probe),
    Learn(l4proxy_proto::probe::Sample),
}
