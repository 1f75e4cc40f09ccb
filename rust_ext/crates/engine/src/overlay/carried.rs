//! What connections saw of the paths that they took: packets that QUIC sent and lost, bytes, its smoothed round trip. Summed by handle and
//! path once a second, and whenever a connection is about to take another path, so that each path has its own.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use l4proxy_tunnel::{ConnectionKey, ConnectionState, ConnectionStats};
use l4proxy_wire::ids::PathId;

use super::Overlay;

/// A handle that traffic used within this time is in use: what its connections see is told.
const IN_USE: Duration = Duration::from_secs(10);

/// Rows that wait for the worker to take them, one a connection and second: it does so within its next turn.
const MAX_CARRIED: usize = 65_536;

/// What connections of one handle carried over one path.
#[derive(Debug, Clone)]
pub(crate) struct PathCarried {
    pub(crate) handle: u32,
    pub(crate) path: PathId,
    pub(crate) peer: String,
    pub(crate) policy: String,
    pub(crate) links: Vec<String>,
    /// Sum of each connection's smoothed round trip in microseconds times the packets that it sent.
    pub(crate) rtt_us_packets: u128,
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
}

impl PathCarried {
    /// Add what others carried over the same path.
    pub(crate) const fn add(&mut self, other: &Self) {
        self.rtt_us_packets += other.rtt_us_packets;
        self.packets += other.packets;
        self.lost += other.lost;
        self.bytes_out += other.bytes_out;
        self.bytes_in += other.bytes_in;
    }

    /// The round trip, each connection by the packets that it sent.
    pub(crate) fn rtt_us(&self) -> u64 {
        let mean = self.rtt_us_packets / u128::from(self.packets.max(1));
        u64::try_from(mean).unwrap_or(u64::MAX)
    }
}

/// What a connection has carried at some moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    packets: u64,
    lost: u64,
    bytes_out: u64,
    bytes_in: u64,
}

impl Told {
    const fn of(stats: &ConnectionStats) -> Self {
        Self {
            packets: stats.quic_packets_sent,
            lost: stats.quic_packets_lost,
            bytes_out: stats.quic_bytes_sent,
            bytes_in: stats.quic_bytes_received,
        }
    }

    const fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(before.packets),
            lost: self.lost.saturating_sub(before.lost),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
        }
    }
}

impl Overlay {
    /// Sum what connections have carried since this was last done, over the paths that they were last told of.
    pub(super) fn sum_paths(&mut self, now: Instant) {
        let tables = self.tables.clone();
        let clock_ms = self.shared.clock_ms(now);
        let (tunnels, carried) = (&mut self.tunnels, &mut self.carried);
        let mut full = 0_u64;
        self.connections.for_each_told(|key, handle, path, before| {
            let Some(stats) = tunnels.connection_stats(key) else { return };
            let told = Told::of(&stats);
            let seen = told.since(std::mem::replace(before, told));
            let Some((handle, path)) =
                handle.and_then(|id| tables.handle(id)).zip(path).filter(|_| seen.packets > 0)
            else {
                return;
            };
            let used_at_ms = handle.state.used_at_ms.load(Ordering::Relaxed);
            let is_in_use =
                used_at_ms != 0 && clock_ms.saturating_sub(used_at_ms) <= IN_USE.as_millis() as u64;
            let view = tunnels.connection(key).filter(|view| view.state == ConnectionState::Ready);
            // A path that has left the snapshot is nobody's choice any more.
            let known = handle.paths.iter().find(|known| known.id == path);
            let (true, Some(view), Some(known)) = (is_in_use, view, known) else { return };
            if carried.len() >= MAX_CARRIED {
                full += 1;
                return;
            }
            carried.push(PathCarried {
                handle: handle.id,
                path,
                peer: tables.peer(handle.peer).map(|peer| peer.name.clone()).unwrap_or_default(),
                policy: handle.policy.clone(),
                links: known.links.clone(),
                rtt_us_packets: view.rtt.as_micros() * u128::from(seen.packets),
                packets: seen.packets,
                lost: seen.lost,
                bytes_out: seen.bytes_out,
                bytes_in: seen.bytes_in,
            });
        });
        if full > 0 {
            *self.totals.drops.entry("outcomes_full").or_default() += full;
        }
    }

    /// What a connection has just counted as lost is no path's: its packets were given up because the path under them had died, and that is known.
    pub(super) fn pass_over_losses(&mut self, key: ConnectionKey) {
        if let Some(stats) = self.tunnels.connection_stats(key) {
            self.connections.set_told(key, Told::of(&stats));
        }
    }

    /// What was summed since the last call.
    pub(crate) fn take_carried(&mut self) -> Vec<PathCarried> {
        std::mem::take(&mut self.carried)
    }
}
