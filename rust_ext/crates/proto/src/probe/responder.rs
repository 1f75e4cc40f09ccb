//! Answers probes on incoming links. A stranger gets no answer, a request none twice, and the table is the snapshot's: it does not grow.

use std::collections::BTreeMap;

use l4proxy_wire::DropReason;
use l4proxy_wire::ids::{LinkId, PopId};
use l4proxy_wire::probe::{ProbeReply, ProbeRequest};

use crate::keys::KeyGeneration;
use crate::sequence::Received;

/// A link of another PoP that ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncomingLink {
    /// Its id.
    pub id: LinkId,
    /// Where it begins.
    pub peer: PopId,
}

#[derive(Clone, Copy, Debug)]
struct Incoming {
    peer: PopId,
    /// Requests taken so far, modulo 2³².
    received_count: u32,
    /// The latest sequences, and the key they came under.
    latest: Option<(KeyGeneration, Received)>,
}

/// Answers for all incoming links of this PoP.
#[derive(Debug, Default)]
pub struct Responder {
    links: BTreeMap<LinkId, Incoming>,
}

impl Responder {
    /// Without links.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the links; one that stays keeps its count and its replay window.
    pub fn set_links(&mut self, links: &[IncomingLink]) {
        let mut before = std::mem::take(&mut self.links);
        for &IncomingLink { id, peer } in links {
            let kept = before.remove(&id).filter(|incoming| incoming.peer == peer);
            self.links.insert(id, kept.unwrap_or(Incoming { peer, received_count: 0, latest: None }));
        }
    }

    /// Answers one request that `peer` has sent, authenticated with the key of `generation`.
    ///
    /// `received_ns` is the kernel's timestamp of it and `now_ns` the present, both of this PoP's wall clock. The reply goes back over
    /// the exact reverse link at once.
    ///
    /// # Errors
    /// `probe_link` (not a link of that peer to here), `probe_replayed`.
    pub fn handle_request(
        &mut self,
        peer: PopId,
        generation: KeyGeneration,
        request: &ProbeRequest,
        received_ns: u64,
        now_ns: u64,
    ) -> Result<ProbeReply, DropReason> {
        let incoming = self
            .links
            .get_mut(&request.link)
            .filter(|link| link.peer == peer)
            .ok_or(DropReason::ProbeLink)?;
        match &mut incoming.latest {
            Some((known, _)) if generation < *known => return Err(DropReason::ProbeReplayed),
            Some((known, received)) if generation == *known => {
                if !received.accept(request.sequence) {
                    return Err(DropReason::ProbeReplayed);
                }
            }
            // The first request ever, or the first of the peer's next life.
            latest @ (Some(_) | None) => *latest = Some((generation, Received::first(request.sequence))),
        }
        incoming.received_count = incoming.received_count.wrapping_add(1);
        Ok(ProbeReply {
            request: *request,
            received_count: incoming.received_count,
            received_ns,
            // A wall clock that steps back between the two must not become five hundred years.
            residence_ns: now_ns.saturating_sub(received_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: LinkId = LinkId(1);
    const PEER: PopId = PopId(7);
    const KEY: KeyGeneration = KeyGeneration(1);

    fn responder() -> Responder {
        let mut responder = Responder::new();
        responder.set_links(&[IncomingLink { id: LINK, peer: PEER }]);
        responder
    }

    fn request(sequence: u32) -> ProbeRequest {
        ProbeRequest { link: LINK, sequence, sent_ns: 1_000 }
    }

    #[test]
    fn a_reply_echoes_the_request_and_says_when_it_came_and_how_long_it_stayed() {
        let reply = responder().handle_request(PEER, KEY, &request(9), 5_000, 5_250);
        let expected =
            ProbeReply { request: request(9), received_count: 1, received_ns: 5_000, residence_ns: 250 };
        assert_eq!(reply, Ok(expected));
        let after_a_step = responder().handle_request(PEER, KEY, &request(9), 5_000, 4_000);
        assert_eq!(after_a_step.map(|reply| reply.residence_ns), Ok(0));
    }

    #[test]
    fn a_request_is_answered_once_and_an_old_one_not_at_all() {
        let mut responder = responder();
        let mut ask = |sequence| responder.handle_request(PEER, KEY, &request(sequence), 0, 0);
        assert_eq!(ask(100).map(|reply| reply.received_count), Ok(1));
        assert_eq!(ask(98).map(|reply| reply.received_count), Ok(2), "overtaken on the way");
        assert_eq!(ask(100), Err(DropReason::ProbeReplayed));
        assert_eq!(ask(98), Err(DropReason::ProbeReplayed));
        assert_eq!(ask(36), Err(DropReason::ProbeReplayed), "64 below the newest");
        assert_eq!(ask(37).map(|reply| reply.received_count), Ok(3));
    }

    #[test]
    fn a_newer_key_begins_afresh_and_ends_the_older_one() {
        let mut responder = responder();
        let mut ask = |generation, sequence| {
            let reply = responder.handle_request(PEER, KeyGeneration(generation), &request(sequence), 0, 0);
            reply.map(|reply| reply.received_count)
        };
        assert_eq!(ask(1, 5_000), Ok(1));
        assert_eq!(ask(2, 3), Ok(2));
        assert_eq!(ask(1, 5_001), Err(DropReason::ProbeReplayed));
        assert_eq!(ask(2, 3), Err(DropReason::ProbeReplayed));
    }

    #[test]
    fn only_the_pop_at_the_links_beginning_is_answered() {
        let mut responder = responder();
        let other_link = ProbeRequest { link: LinkId(2), ..request(1) };
        assert_eq!(responder.handle_request(PopId(8), KEY, &request(1), 0, 0), Err(DropReason::ProbeLink));
        assert_eq!(responder.handle_request(PEER, KEY, &other_link, 0, 0), Err(DropReason::ProbeLink));
    }

    #[test]
    fn a_link_that_stays_keeps_its_count_and_one_that_goes_is_forgotten() {
        let mut responder = responder();
        responder.handle_request(PEER, KEY, &request(1), 0, 0).unwrap();
        let (kept, new) = (IncomingLink { id: LINK, peer: PEER }, IncomingLink { id: LinkId(2), peer: PEER });
        responder.set_links(&[kept, new]);
        let again = responder.handle_request(PEER, KEY, &request(2), 0, 0);
        assert_eq!(again.map(|reply| reply.received_count), Ok(2));
        responder.set_links(&[new]);
        assert_eq!(responder.handle_request(PEER, KEY, &request(3), 0, 0), Err(DropReason::ProbeLink));
    }
}
