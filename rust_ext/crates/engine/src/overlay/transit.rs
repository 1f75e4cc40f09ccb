//! This PoP as a transit: what each previous hop sends through it, as one worker sees it, and what they are told when a link that they use is
//! lost (`docs/protocol.md` section 7a). Packets themselves are judged in `proto::forward` and carried by `passage`.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use l4proxy_proto::keys::open_link_down;
use l4proxy_proto::link_down::{LabelledLink, LinkDowns, Notice};
use l4proxy_proto::liveness::MAX_PATHS;
use l4proxy_wire::DropReason;
use l4proxy_wire::ids::{LinkId, PathId, PopId};

use super::Overlay;
use super::keeper::Keeper;
use super::tables::OverlayTables;

/// A path that hellos do not go over is thought to be broken for so long after a transit PoP has said so.
const TOLD_MEMORY: Duration = Duration::from_secs(2);

/// Paths of which that is remembered, at most.
const MAX_TOLD: usize = 1_024;

/// What one previous hop has sent through this PoP.
#[derive(Debug, Clone, Default)]
pub(crate) struct TransitTotals {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) drops: HashMap<&'static str, u64>,
}

#[derive(Debug)]
struct PreviousHop {
    id: PopId,
    name: String,
    totals: TransitTotals,
}

/// The previous hops as one worker knows them. Places are made when a snapshot comes into force: a packet allocates nothing.
#[derive(Debug, Default)]
pub(super) struct PreviousHops {
    /// By their place in [`OverlayTables::peers`].
    hops: Vec<PreviousHop>,
    links: usize,
    /// By hop and link: the second in which worker 0 was last told of the use.
    noted_s: Vec<u64>,
}

impl PreviousHops {
    /// A snapshot has come into force. Totals of those that stay go on.
    pub(super) fn apply(&mut self, tables: &OverlayTables) {
        let mut before: HashMap<PopId, TransitTotals> =
            self.hops.drain(..).map(|hop| (hop.id, hop.totals)).collect();
        self.hops = tables
            .peers
            .iter()
            .map(|peer| PreviousHop {
                id: peer.id,
                name: peer.name.clone(),
                totals: before.remove(&peer.id).unwrap_or_default(),
            })
            .collect();
        self.links = tables.links.len();
        self.noted_s = vec![0; self.hops.len() * self.links];
    }

    /// A packet of `hop` goes on over `link`; `second` is the present, not 0. Whether worker 0 is to know: once a second.
    pub(super) fn on_forward(&mut self, hop: usize, link: usize, bytes: usize, second: u64) -> Option<PopId> {
        let known = self.hops.get_mut(hop)?;
        known.totals.packets += 1;
        known.totals.bytes += bytes as u64;
        let noted_s = self.noted_s.get_mut(hop * self.links + link)?;
        (std::mem::replace(noted_s, second) != second).then_some(known.id)
    }

    /// A packet of `hop` that wanted to pass was dropped.
    pub(super) fn on_drop(&mut self, hop: usize, reason: &'static str) {
        if let Some(known) = self.hops.get_mut(hop) {
            *known.totals.drops.entry(reason).or_default() += 1;
        }
    }

    /// What those have sent who sent anything, by name.
    pub(super) fn totals(&self) -> impl Iterator<Item = (&str, &TransitTotals)> {
        let is_used = |hop: &&PreviousHop| hop.totals.packets > 0 || !hop.totals.drops.is_empty();
        self.hops.iter().filter(is_used).map(|hop| (hop.name.as_str(), &hop.totals))
    }
}

/// Worker 0's part: who is told of lost links, and what it was told itself.
#[derive(Debug)]
pub(super) struct Transit {
    pub(super) link_downs: LinkDowns,
    watched: Vec<LabelledLink>,
    /// Paths that hellos do not go over and that a transit PoP has called broken.
    told: HashMap<(PopId, PathId), Instant>,
}

impl Transit {
    /// See [`LinkDowns::new`].
    pub(super) fn new(own: PopId, origin: Instant) -> Self {
        Self { link_downs: LinkDowns::new(own, origin), watched: Vec::new(), told: HashMap::new() }
    }

    /// A snapshot has come into force.
    pub(super) fn apply(&mut self, tables: &OverlayTables) {
        let labelled = |link: &super::tables::OutLink| {
            Some(LabelledLink { id: link.id, label: link.label?, next: link.peer })
        };
        self.link_downs.set_links(tables.links.iter().filter_map(labelled).collect());
    }

    /// Whether a transit PoP has called a path broken of late.
    pub(super) fn is_told(&self, now: Instant, peer: PopId, path: PathId) -> bool {
        self.told.get(&(peer, path)).is_some_and(|&at| now.saturating_duration_since(at) < TOLD_MEMORY)
    }

    /// A transit PoP has called a path broken. False: of as many paths that is remembered already.
    fn tell(&mut self, now: Instant, peer: PopId, path: PathId) -> bool {
        self.told.retain(|_, at| now.saturating_duration_since(*at) < TOLD_MEMORY);
        let has_room = self.told.len() < MAX_TOLD || self.told.contains_key(&(peer, path));
        if has_room {
            self.told.insert((peer, path), now);
        }
        has_room
    }
}

impl Keeper {
    /// Hellos go over the links that others use, as far as there is room beside `followed` paths.
    pub(super) fn watch_links(
        &mut self,
        now: Instant,
        tables: &OverlayTables,
        uses: impl IntoIterator<Item = (PopId, LinkId)>,
        followed: usize,
    ) {
        for (previous, link) in uses {
            self.transit.link_downs.on_use(now, previous, link);
        }
        let watched = self.transit.link_downs.watched(now, MAX_PATHS.saturating_sub(followed));
        for gone in self.transit.watched.iter().filter(|link| !watched.contains(link)) {
            self.transit.link_downs.set_down(now, gone.id, false);
        }
        for peer in &tables.peers {
            let links: Vec<_> =
                watched.iter().filter(|link| link.next == peer.id).map(|link| PathId(link.id.0)).collect();
            self.liveness.set_watched(now, peer.id, &links);
        }
        self.transit.watched = watched;
    }
}

impl Overlay {
    /// Account for a packet that goes on, and let worker 0 know who uses the link.
    pub(super) fn note_passage(&mut self, hop: usize, link: usize, id: LinkId, bytes: usize, second: u64) {
        self.totals.packets_forwarded += 1;
        self.totals.bytes_forwarded += bytes as u64;
        if let Some(previous) = self.previous.on_forward(hop, link, bytes, second)
            && !self.shared.note_use(previous, id)
        {
            self.drop_packet("transit_uses_full");
        }
    }

    /// A packet that wanted to pass is dropped: accounted to who sent it, too.
    pub(super) fn drop_passing(&mut self, hop: usize, reason: &'static str) {
        self.previous.on_drop(hop, reason);
        self.drop_packet(reason);
    }

    /// See which watched links are lost, and tell those who use them.
    pub(super) fn pump_transit(&mut self, now: Instant, keeper: &mut Keeper) {
        let Keeper { transit, liveness, .. } = keeper;
        for link in &transit.watched {
            transit.link_downs.set_down(now, link.id, liveness.is_link_lost(link.next, PathId(link.id.0)));
        }
        while let Some(notice) = transit.link_downs.poll_notice(now) {
            self.send_link_down(&transit.link_downs, &notice);
        }
        self.totals.link_downs = transit.link_downs.counters();
    }

    /// Straight to the neighbour, over a link that is not known to be lost.
    fn send_link_down(&mut self, link_downs: &LinkDowns, notice: &Notice) {
        let (tables, keys) = (self.tables.clone(), self.shared.keys.load_full());
        let is_good = |link: &super::tables::OutLink| link.peer == notice.to && !link_downs.is_down(link.id);
        let link = tables.links.iter().position(is_good).or_else(|| tables.direct_link(notice.to));
        match (link, keys.probe.find_send(notice.to)) {
            (Some(link), Some(key)) => {
                let packet = notice.link_down.encode(&key.key, key.epoch);
                self.send_over_link(link, &[], packet.as_slice(), None, 0);
            }
            (None, _) => self.drop_packet("no_path"),
            (_, None) => self.drop_packet(DropReason::LinkDownNoKey.as_str()),
        }
    }

    /// A neighbour says that packets with these labels do not arrive. Only paths that begin with a link to it are touched.
    pub(super) fn handle_link_down(&mut self, now: Instant, from: PopId, packet: &[u8]) {
        let keys = self.shared.keys.load();
        let opened = open_link_down(packet, from, &keys.probe);
        let Some(keeper) = &mut self.keeper else { return self.drop_packet("misrouted") };
        let taken = opened.and_then(|(message, generation)| {
            keeper.transit.link_downs.handle(now, from, generation, &message)?;
            Ok(message)
        });
        let message = match taken {
            Ok(message) => message,
            Err(reason) => return self.drop_packet(reason.as_str()),
        };
        let (tables, mut untold) = (&self.tables, 0);
        for handle in tables.handles() {
            for path in &handle.paths {
                let begins_there = tables.links.get(path.first_link).is_some_and(|link| link.peer == from);
                if begins_there
                    && path.labels.starts_with(message.labels.as_slice())
                    && !keeper.liveness.handle_link_down(now, handle.peer, path.id)
                    && !keeper.transit.tell(now, handle.peer, path.id)
                {
                    untold += 1;
                }
            }
        }
        (0..untold).for_each(|_| self.drop_packet("link_down_told_full"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_called_broken_are_remembered_up_to_the_bound_and_for_a_while() {
        let now = Instant::now();
        let peer = PopId(2);
        let mut transit = Transit::new(PopId(1), now);
        for path in 0..MAX_TOLD as u32 {
            assert!(transit.tell(now, peer, PathId(path)));
        }
        let late = PathId(MAX_TOLD as u32);
        assert!(!transit.tell(now, peer, late), "counted by the caller");
        assert!(transit.tell(now, peer, PathId(0)), "one that is there");
        assert!(transit.is_told(now, peer, PathId(0)) && !transit.is_told(now, peer, late));
        let later = now + TOLD_MEMORY;
        assert!(!transit.is_told(later, peer, PathId(0)));
        assert!(transit.tell(later, peer, late), "room again");
    }
}
