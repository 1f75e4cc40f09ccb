//! Peers behind NAT, which can only dial out (`dial: outbound`): what is taken from addresses that are nobody's, whose it may be, and where
//! such a peer is. Where it is moves only as `proto::whereabouts` says; nothing is decided here about paths.
//!
//! From a stranger are taken: QUIC packets (its certificate says who it is), and what is authenticated by itself: channel packets, hellos,
//! probes, and outer headers at their first hop. A fleet without such a PoP takes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use hashbrown::HashMap;
use l4proxy_proto::probe::Sample;
use l4proxy_proto::whereabouts::Whereabouts;
use l4proxy_tunnel::{NOBODY, ReturnAddress};
use l4proxy_wire::ids::{LinkId, PopId};

use super::Overlay;
use super::keeper::Keeper;
use super::receive::Arrival;
use super::shared::OverlayShared;
use super::tables::OverlayTables;

/// Whose packets come from an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    /// `NOBODY`: that is to be found out.
    pub(super) peer: PopId,
    /// Its place among the peers.
    index: Option<usize>,
}

/// Where the far ends of moving links are, by the incoming link; on worker 0.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: HashMap<LinkId, Whereabouts>,
}

impl Places {
    /// A snapshot has come into force: forget links that it does not have.
    pub(super) fn keep(&mut self, tables: &OverlayTables, shared: &OverlayShared) {
        self.places.retain(|&link, _| tables.moving(link).is_some());
        if shared.found.load().values().any(|&link| tables.moving(link).is_none()) {
            let mut found = shared.found.load().as_ref().clone();
            found.retain(|_, link| tables.moving(*link).is_some());
            shared.found.store(Arc::new(found));
        }
    }

    /// Between which addresses a probe request goes, where that is not simply over its link.
    pub(super) fn ask(
        &mut self,
        tables: &OverlayTables,
        link: LinkId,
        sequence: u32,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let link = tables.links.get(tables.link_index(link)?)?;
        let place = link.place.as_ref()?;
        let to = self.places.get_mut(&place.incoming)?.on_request(sequence)?;
        Some((link.local, to))
    }

    /// A probe was answered. True: the peer is found to be elsewhere than it was.
    pub(super) fn on_answer(
        &mut self,
        tables: &OverlayTables,
        shared: &OverlayShared,
        sample: &Sample,
        arrival: Arrival,
    ) -> bool {
        let link = tables.link_index(sample.link).and_then(|index| tables.links.get(index));
        let Some((link, place)) = link.and_then(|link| Some((link, link.place.as_ref()?))) else {
            return false;
        };
        let Some(whereabouts) = self.places.get_mut(&place.incoming) else { return false };
        if link.local != arrival.local || !whereabouts.on_reply(sample.sequence, arrival.source) {
            return false;
        }
        place.current.store(Some(Arc::new(arrival.source)));
        let mut found = shared.found.load().as_ref().clone();
        found.retain(|_, link| *link != place.incoming);
        found.insert((arrival.local, arrival.source), place.incoming);
        shared.found.store(Arc::new(found));
        true
    }
}

impl Keeper {
    /// A packet of `peer` that only it can have made, and that is no replay, came straight over this link of its.
    pub(super) fn heard_over(
        &mut self,
        now: Instant,
        tables: &OverlayTables,
        peer: PopId,
        link: LinkId,
        arrival: Arrival,
    ) {
        let moving =
            tables.moving(link).filter(|moving| (moving.peer, moving.local) == (peer, arrival.local));
        let Some(outgoing) = moving.and_then(|moving| tables.links.get(moving.outgoing)) else { return };
        // A worker that was started again goes on where the one before it was.
        let known = || Whereabouts::at(outgoing.destination());
        let whereabouts = self.places.places.entry(link).or_insert_with(known);
        if whereabouts.on_heard(arrival.source) {
            self.prober.hurry(now, outgoing.id);
        }
    }
}

impl Overlay {
    /// Whose packets come from there; `NOBODY` if that is to be found out, `None` if nothing is taken from strangers.
    pub(super) fn sender_of(&self, tables: &OverlayTables, arrival: Arrival) -> Option<Sender> {
        let addresses = (arrival.local, arrival.source);
        if let Some(link) = tables.incoming(addresses.0, addresses.1) {
            return Some(Sender { peer: link.peer, index: Some(link.peer_index) });
        }
        if !tables.has_moving() {
            return None;
        }
        let link = self.shared.found.load().get(&addresses).copied();
        let peer = link.and_then(|link| tables.moving(link)).map_or(NOBODY, |moving| moving.peer);
        Some(Sender { peer, index: tables.peer_index(peer) })
    }

    /// A QUIC packet of nobody known.
    pub(super) fn handle_strange_quic(
        &mut self,
        now: Instant,
        arrival: Option<Arrival>,
        ecn_bits: u8,
        packet: &[u8],
    ) {
        let Some(arrival) = arrival else { return self.drop_packet("stranger") };
        let from = ReturnAddress { local: arrival.local, remote: arrival.source };
        // Refusals are counted by the tunnels.
        let _ = self.tunnels.handle_stranger(now, from, BytesMut::from(packet), ecn_bits);
    }
}

/// The PoP whose hop key the tag of an outer header is checked with: whom the packet came from. From an address that is nobody's, it is the
/// source itself that a PoP which moves may have sent; a header further on its way has another previous hop, whose address is known.
/// Returns its place among the peers.
pub(super) fn previous_hop(tables: &OverlayTables, sender: Sender, packet: &[u8]) -> Option<usize> {
    const POINTER_MASK: u8 = 0x0f;
    if sender.index.is_some() {
        return sender.index;
    }
    let source = PopId(u32::from_be_bytes(packet.get(4..8)?.try_into().ok()?));
    let is_first_hop = packet.get(1)? & POINTER_MASK == 0;
    let index = tables.peer_index(source)?;
    (is_first_hop && tables.peers[index].moves).then_some(index)
}

/// The PoP with whose key the tag of a probe is checked. From an address that is nobody's: the far end of the link that the probe names.
pub(super) fn claimed_prober(
    tables: &OverlayTables,
    sender: PopId,
    arrival: Arrival,
    packet: &[u8],
) -> PopId {
    if sender != NOBODY {
        return sender;
    }
    let Some(Ok(bytes)) = packet.get(4..8).map(<[u8; 4]>::try_from) else { return NOBODY };
    let link = LinkId(u32::from_be_bytes(bytes));
    // A request names the link from there, a reply the one to there.
    let outgoing = || tables.links.get(tables.link_index(link)?).filter(|link| link.place.is_some());
    let moving = tables.moving(link).map(|moving| (moving.peer, moving.local));
    let found = moving.or_else(|| outgoing().map(|link| (link.peer, link.local)));
    found.filter(|(_, local)| *local == arrival.local).map_or(NOBODY, |(peer, _)| peer)
}
