//! Requests that are answered when the workers have done their part: lists of flows, and the drain.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Control;
use crate::connection::ConnectionError;
use crate::messages::{FlowView, ListFlows, SocketRole, Up, Whois};
use crate::shared::Command;
use crate::snapshot::Protocol;

/// How long a worker may take to answer `list_flows` or the end of a drain; after that the answer goes without it.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Flow lists that are being made at one time.
const MAX_LISTS: usize = 16;

/// Flows of one list. Each costs its worker some two microseconds of its turn.
const MAX_LISTED: usize = 5_000;

/// How often a drain looks whether flows are left.
pub(super) const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(20);

/// A flow list that waits for workers.
pub(super) struct Listing {
    pub(super) request: u64,
    pub(super) limit: usize,
    pub(super) waiting: usize,
    pub(super) flows: Vec<FlowView>,
    pub(super) total: u64,
    pub(super) deadline: Instant,
}

/// A drain under way.
pub(super) struct Draining {
    pub(super) deadline: Instant,
    /// Workers that have been told to close their flows and have not answered, and until when they may.
    pub(super) closing: Option<(usize, Instant)>,
    pub(super) closed: u64,
}

impl Control {
    pub(super) fn list(&mut self, now: Instant, mut request: ListFlows) -> Result<(), ConnectionError> {
        if self.listings.len() >= MAX_LISTS {
            return self.say(&Up::Flows { request: request.request, flows: &[], total: 0 });
        }
        request.limit = request.limit.min(MAX_LISTED as u32);
        let limit = request.limit as usize;
        let (number, request) = (request.request, Arc::new(request));
        let told =
            self.shared.workers.iter().filter(|worker| worker.command(Command::ListFlows(request.clone())));
        self.listings.push(Listing {
            request: number,
            limit,
            waiting: told.count(),
            flows: Vec::new(),
            total: 0,
            deadline: now + ANSWER_WITHIN,
        });
        Ok(())
    }

    /// The same for one address; what is no address belongs to nobody.
    pub(super) fn whois(&mut self, now: Instant, whois: Whois) -> Result<(), ConnectionError> {
        let request = whois.request;
        match ListFlows::try_from(whois) {
            Ok(wanted) => self.list(now, wanted),
            Err(_) => self.say(&Up::Flows { request, flows: &[], total: 0 }),
        }
    }

    pub(super) fn finish_listings(&mut self, now: Instant) {
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.listings)
            .into_iter()
            .partition(|listing| listing.waiting == 0 || listing.deadline <= now);
        self.listings = waiting;
        for mut listing in done {
            listing.flows.truncate(listing.limit);
            let Listing { request, flows, total, .. } = &listing;
            if self.say(&Up::Flows { request: *request, flows, total: *total }).is_err() {
                self.daemon = None;
            }
        }
    }

    pub(super) fn begin_drain(&mut self, now: Instant, patience: Duration) {
        // TCP clients are refused from here on; UDP listeners stay for the sessions that live.
        self.sockets.retain(|key, _| (key.role, key.protocol) != (SocketRole::Listener, Protocol::Tcp));
        let tables = self.shared.tables.load().draining();
        self.shared.tables.store(Arc::new(tables));
        self.shared.is_draining.store(true, Ordering::Release);
        self.shared.wake_all();
        self.draining.get_or_insert(Draining { deadline: now + patience, closing: None, closed: 0 });
        if let Some(draining) = &mut self.draining {
            draining.deadline = now + patience;
        }
    }

    /// See whether a drain is over.
    pub(super) fn drain(&mut self, now: Instant) {
        let is_drained = self.shared.is_drained();
        let Some(draining) = &mut self.draining else { return };
        let is_over = match draining.closing {
            Some((waiting, until)) => waiting == 0 || until <= now,
            None => is_drained,
        };
        if is_over {
            let closed = draining.closed;
            self.draining = None;
            self.is_over = true;
            if self.say(&Up::Drained { closed }).is_err() {
                self.daemon = None;
            }
        } else if draining.closing.is_none() && draining.deadline <= now {
            let told = self.shared.workers.iter().filter(|worker| worker.command(Command::CloseFlows));
            draining.closing = Some((told.count(), now + ANSWER_WITHIN));
        }
    }
}
