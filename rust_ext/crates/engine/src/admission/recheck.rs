//! Live flows whose clients a new list denies: they are ended, some at a time, so that the other flows are not held up.

use crate::compile::Tables;
use crate::edge::tcp::TcpEdge;
use crate::edge::udp::UdpEdge;
use crate::turn::Turn;

/// Places of each table of flows that one turn looks at: some 50 µs.
pub(crate) const LOOKS_PER_TURN: usize = 256;

/// How far a worker has come with it.
#[derive(Debug, Default)]
pub(crate) struct Recheck {
    /// Of the access tables that all flows were held against.
    access_epoch: u64,
    tcp: Option<usize>,
    udp: Option<usize>,
}

impl Recheck {
    /// A snapshot is in force: if its access tables are others, begin with the first flow.
    pub(crate) fn follow(&mut self, tables: &Tables) {
        if self.access_epoch != tables.access_epoch {
            self.access_epoch = tables.access_epoch;
            (self.tcp, self.udp) = (Some(0), Some(0));
        }
    }

    /// Whether flows are left to look at.
    pub(crate) const fn has_work(&self) -> bool {
        self.tcp.is_some() || self.udp.is_some()
    }

    /// Look at some flows.
    pub(crate) fn step(&mut self, tcp: &mut TcpEdge, udp: &mut UdpEdge, turn: &mut Turn<'_>) {
        self.tcp = self.tcp.and_then(|from| tcp.end_denied(from, turn));
        self.udp = self.udp.and_then(|from| udp.end_denied(from, turn));
    }
}
