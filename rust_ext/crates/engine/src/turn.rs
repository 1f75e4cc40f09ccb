//! What one turn of a worker works with: the time, the tables in force, and everything of the worker that its parts share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use l4proxy_io::epoll::Epoll;
use l4proxy_tunnel::SendError;
use l4proxy_wire::channel::Frame;
use l4proxy_wire::ids::PopId;

use crate::compile::Tables;
use crate::counters::{AppValue, Dropped, Fate, Value, WorkerCounters};
use crate::denials::Denials;
use crate::edge::ending::DialFailure;
use crate::messages::{EventKind, RequestDenied};
use crate::origin::{Denied, Request};
use crate::outcomes;
use crate::overlay::{ChannelKey, Overlay};
use crate::random::Random;
use crate::shared::{Report, Shared, event, lock};

/// Borrowed for one turn.
pub(crate) struct Turn<'a> {
    /// When the turn began: near enough for everything in it.
    pub(crate) now: Instant,
    /// The same on the wall clock.
    pub(crate) wall_ns: u64,
    /// Descriptors that were ready when it began.
    pub(crate) ready: usize,
    /// Number of the worker.
    pub(crate) worker: usize,
    pub(crate) epoll: &'a Epoll,
    pub(crate) shared: &'a Shared,
    pub(crate) counters: &'a WorkerCounters,
    pub(crate) tables: &'a Arc<Tables>,
    pub(crate) overlay: &'a mut Overlay,
    pub(crate) reports: &'a mut Vec<Report>,
    pub(crate) denials: &'a mut Denials,
    pub(crate) random: &'a mut Random,
    pub(crate) is_draining: bool,
}

impl Turn<'_> {
    /// Count something.
    pub(crate) fn count(&self, value: Value, amount: u64) {
        self.counters.add(value, amount);
    }

    /// Count something that was refused or thrown away.
    pub(crate) fn drop(&self, reason: Dropped) {
        self.counters.drop(reason);
    }

    /// The same for several at once.
    pub(crate) fn drop_many(&self, reason: Dropped, amount: u64) {
        self.counters.drop_many(reason, amount);
    }

    /// Count something of an app.
    pub(crate) fn count_app(&self, app: &crate::app::App, value: AppValue, amount: u64) {
        app.state.counters.add(self.worker, value, amount);
    }

    /// Count what became of a flow of an app by its way. `handle`: None is dialled here. What went by a handle that has gone says nothing of
    /// any way that there is.
    pub(crate) fn note(&self, app: &crate::app::App, handle: Option<u32>, outcome: Fate) {
        let view = handle.map(|handle| (handle, self.overlay.describe_handle(handle)));
        let way = match &view {
            None => None,
            Some((handle, Some(view))) => Some((*handle, view)),
            Some((_, None)) => return,
        };
        if !lock(&self.shared.workers[self.worker].outcomes).note(&app.name, way, outcome) {
            self.drop(Dropped::OutcomesFull);
        }
    }

    /// The same of an attempt to reach the origin that came to nothing.
    pub(crate) fn note_failure(&self, app: &crate::app::App, handle: Option<u32>, failure: DialFailure) {
        if let Some(outcome) = outcomes::of_failure(failure) {
            self.note(app, handle, outcome);
        }
    }

    /// Tell the daemon what happened.
    pub(crate) fn event(&mut self, kind: EventKind) {
        self.reports.push(Report::Event(event(kind)));
    }

    /// A peer asked for what is not configured here: count it, and tell the daemon now and then.
    pub(crate) fn deny(&mut self, peer: PopId, request: &Request<'_>, denied: Denied) {
        self.drop(denied.counted);
        let Some(name) = self.tables.overlay.peer(peer).map(|peer| peer.name.clone()) else { return };
        if let Some(count) = self.denials.note(self.now, peer) {
            self.event(EventKind::RequestDenied(RequestDenied {
                peer: name,
                app: request.app.to_owned(),
                origin: request.origin.to_owned(),
                protocol: request.protocol,
                reason: denied.reason.as_str(),
                count,
            }));
        }
    }

    /// Answer on a channel. What the tunnel does not take is counted; the other PoP asks again.
    pub(crate) fn reply(&mut self, channel: ChannelKey, frame: &Frame<'_>) {
        if let Err(error) = self.overlay.reply_frame(self.now, channel, frame) {
            self.drop(frame_dropped(&error));
        }
    }

    /// A moment of this engine's clock on the wall clock.
    pub(crate) fn wall_clock_of(&self, moment: Instant) -> u64 {
        self.wall_ns.saturating_sub(nanoseconds(self.now.saturating_duration_since(moment)))
    }
}

/// What a frame that the overlay did not take is counted as.
pub(crate) const fn frame_dropped(error: &SendError) -> Dropped {
    match error {
        SendError::Full => Dropped::TunnelFull,
        SendError::TooLarge => Dropped::UdpTooLarge,
        // There is no tunnel for this session; the list may grow.
        SendError::Gone | SendError::WrongRole | _ => Dropped::TunnelGone,
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
