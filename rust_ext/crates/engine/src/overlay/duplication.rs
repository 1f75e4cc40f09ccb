//! Which datagram frames go over two paths: what their app asks for, what the path that they take loses, and what the budgets allow.
//!
//! Copies cost the fleet's transit as much as what they copy, so each app and each link has a budget for them. What is over it goes
//! once, as without duplication, and is counted.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use l4proxy_proto::rate::{Rate, SharedBucket};
use l4proxy_tunnel::{ConnectionView, DatagramMode, SendError};
use l4proxy_wire::channel::Frame;

use super::tables::Handle;
use super::{ChannelKey, Overlay};
use crate::policy::Duplication;

/// Copies of one app at one PoP, bytes a second: 20 Mbit/s are some two hundred calls or players. A tenth of a second of it at once.
const APP_RATE: Rate = Rate::new(
    NonZeroU64::new(2_500_000).expect("it is not zero"),
    NonZeroU64::new(250_000).expect("it is not zero"),
);

/// The budget of an app, full at first.
pub(crate) const fn app_budget() -> SharedBucket {
    SharedBucket::new(APP_RATE)
}

/// What the app of a frame wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) duplication: Duplication,
    pub(crate) budget: &'a SharedBucket,
}

impl Overlay {
    /// Hand a frame to the tunnel, to go over as many paths as it should.
    pub(super) fn send_once_or_twice(
        &mut self,
        now: Instant,
        connection: ChannelKey,
        frame: &Frame<'_>,
        wish: Wish<'_>,
    ) -> Result<(), SendError> {
        self.on_datagram(now, connection);
        if self.is_twice(now, connection, frame, wish) {
            self.tunnels.send_frame_twice(connection, frame)
        } else {
            self.tunnels.send_frame(connection, frame)
        }
    }

    /// Whether a frame that leaves through this connection is to go over two paths.
    fn is_twice(&mut self, now: Instant, connection: ChannelKey, frame: &Frame<'_>, wish: Wish<'_>) -> bool {
        if wish.duplication == Duplication::Off {
            return false;
        }
        let tables = self.tables.clone();
        let handle = self.connections.handle(connection, &tables);
        let Some(handle) = handle.filter(|handle| wants(handle, wish.duplication)) else { return false };
        // QUIC's packets carry other things beside, and go one way.
        let is_channel = |view: ConnectionView<'_>| view.datagrams == DatagramMode::Channel;
        if !self.tunnels.connection(connection).is_some_and(is_channel) {
            self.drop_packet("copy_no_channel");
            return false;
        }
        let Some(second) = handle.second_path() else {
            self.drop_packet("copy_no_path");
            return false;
        };
        let bytes = length(frame);
        let is_in_budget = tables
            .links
            .get(second.first_link)
            .is_some_and(|link| wish.budget.take(now, bytes) && link.copies.take(now, bytes));
        if !is_in_budget {
            self.drop_packet("copy_over_budget");
        }
        is_in_budget
    }
}

/// About how long the packet gets by a frame.
fn length(frame: &Frame<'_>) -> u64 {
    const OVERHEAD: usize = 32;
    let datagram = match frame {
        Frame::Data { datagram, .. } | Frame::OpenData { datagram, .. } => datagram.bytes.len(),
        Frame::Bound { datagram, .. } => datagram.map_or(0, |datagram| datagram.bytes.len()),
        Frame::SessionUnknown { .. }
        | Frame::Close { .. }
        | Frame::Refused { .. }
        | Frame::Quic { .. }
        | Frame::Fragment(_)
        | Frame::Repair(_) => 0,
    };
    (datagram + OVERHEAD) as u64
}

fn wants(handle: &Handle, duplication: Duplication) -> bool {
    duplication == Duplication::Always || handle.state.is_lossy.load(Ordering::Relaxed)
}
