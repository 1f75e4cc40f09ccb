//! The `counters` frame: totals of all workers and apps, the state of handles and peers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use l4proxy_tunnel::HandshakeFailure;

use crate::compile::{AppStates, Tables};
use crate::counters::{AppValue, Dropped, Value};
use crate::messages::{
    CountersFrame, EndedFlows, HandleState, LinkLoad, OutcomesFrame, PeerState, TransitState,
};
use crate::outcomes::Summed;
use crate::overlay::{OutLink, OverlayTotals, TransitTotals};
use crate::shared::{Shared, add_totals, lock, wall_clock_ns};

/// A handle that traffic used within this time is in use.
const IN_USE: Duration = Duration::from_secs(10);

/// Pair connections by name of the peer: whether there is one, and since when (wall clock).
pub(crate) type Peers = BTreeMap<String, (bool, u64)>;

/// Gather everything. `queue_full`: messages to the daemon that did not fit the control thread's queues.
pub(crate) fn gather(
    shared: &Shared,
    app_states: &AppStates,
    peers: &Peers,
    running: Duration,
    queue_full: u64,
) -> CountersFrame {
    let tables = shared.tables.load();
    let mut values = BTreeMap::new();
    let mut drops = BTreeMap::new();
    for &value in Value::ALL {
        let sum = shared.workers.iter().map(|worker| worker.counters.get(value)).sum();
        values.insert(value.as_str(), sum);
    }
    for &reason in Dropped::ALL {
        let sum: u64 = shared.workers.iter().map(|worker| worker.counters.dropped(reason)).sum();
        drops.insert(reason.as_str(), sum);
    }
    *drops.entry(Dropped::ControlQueueFull.as_str()).or_default() += queue_full;
    let sum_of = |gauge: &dyn Fn(&crate::shared::WorkerShared) -> u64| shared.workers.iter().map(gauge).sum();
    values.insert("tcp_flows", sum_of(&|worker| worker.tcp_flows.load(Ordering::Relaxed)));
    values.insert("udp_sessions", sum_of(&|worker| worker.udp_sessions.load(Ordering::Relaxed)));
    values.insert("udp_sessions_assured", sum_of(&|worker| worker.assured_sessions.load(Ordering::Relaxed)));
    values.insert("descriptor_limit", l4proxy_io::limits::open_files().soft);
    let is_short = shared.is_short_of_memory.load(Ordering::Relaxed);
    values.insert("memory_short", is_short.into());
    let transit = add_overlay(shared, &mut values, &mut drops);
    CountersFrame {
        at_ns: wall_clock_ns(),
        workers: shared.workers.len(),
        values,
        apps: app_states.iter().map(|(name, state)| (name.clone(), app(state))).collect(),
        drops,
        handles: handles(&tables, running),
        peers: peers
            .iter()
            .map(|(name, &(connected, since_ns))| PeerState { name: name.clone(), connected, since_ns })
            .collect(),
        transit,
        ended: app_states.iter().flat_map(|(name, state)| ended(name, state)).collect(),
    }
}

/// What links and paths carry is told this often.
const CARRIED_EVERY: Duration = Duration::from_secs(1);

/// What flows got since the last call: what became of them every time, what links and paths carried once a second, and only what there was.
/// `told_at`: when that was told last; None: never to this daemon, and what lies there is of a time that it knows nothing of. None: nothing.
pub(crate) fn outcomes(
    shared: &Shared,
    told_at: &mut Option<Instant>,
    now: Instant,
) -> Option<OutcomesFrame> {
    let elapsed = told_at.map(|at| now.saturating_duration_since(at));
    let is_first = elapsed.is_none();
    let elapsed = elapsed.filter(|&elapsed| elapsed >= CARRIED_EVERY);
    let mut summed = Summed::default();
    let tables = shared.tables.load();
    let mut links = Vec::new();
    if is_first || elapsed.is_some() {
        *told_at = Some(now);
        let taken = |link: &OutLink| LinkLoad {
            link: link.name.clone(),
            bytes: link.sent.swap(0, Ordering::Relaxed),
        };
        links.extend(tables.overlay.links.iter().map(taken).filter(|load| load.bytes > 0));
    }
    for worker in &shared.workers {
        let mut outcomes = lock(&worker.outcomes);
        summed.add(if is_first || elapsed.is_some() { outcomes.take() } else { outcomes.take_flows() });
    }
    if is_first {
        return None;
    }
    let (flows, paths) = (summed.flows(), summed.paths());
    let elapsed_ms = elapsed.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    let is_empty = flows.is_empty() && elapsed.is_none();
    (!is_empty).then(|| OutcomesFrame { at_ns: wall_clock_ns(), elapsed_ms, links, paths, flows })
}

fn ended(app: &str, state: &crate::app::AppState) -> Vec<EndedFlows> {
    let named = |(protocol, code, flows)| EndedFlows { app: app.to_owned(), protocol, code, flows };
    state.counters.ended().map(named).collect()
}

fn app(state: &crate::app::AppState) -> BTreeMap<&'static str, u64> {
    let mut values: BTreeMap<_, _> =
        AppValue::ALL.iter().map(|&value| (value.as_str(), state.counters.sum(value))).collect();
    values.insert("flows", state.flows().into());
    values
}

fn add_overlay(
    shared: &Shared,
    values: &mut BTreeMap<&'static str, u64>,
    drops: &mut BTreeMap<&'static str, u64>,
) -> Vec<TransitState> {
    let mut sum = OverlayTotals::default();
    for worker in &shared.workers {
        let status = lock(&worker.overlay);
        add_totals(&mut sum, &status.totals);
        add_totals(&mut sum, &status.before);
    }
    values.insert("overlay_packets_in", sum.packets_in);
    values.insert("overlay_packets_out", sum.packets_out);
    values.insert("overlay_bytes_in", sum.bytes_in);
    values.insert("overlay_bytes_out", sum.bytes_out);
    values.insert("overlay_packets_forwarded", sum.packets_forwarded);
    values.insert("overlay_bytes_forwarded", sum.bytes_forwarded);
    values.insert("overlay_packets_resent", sum.packets_resent);
    values.insert("overlay_packets_copied", sum.packets_copied);
    values.insert("overlay_address_moves", sum.address_moves);
    values.insert("overlay_packets_stray", sum.packets_stray);
    values.insert("overlay_path_suspicions", sum.suspicions);
    values.insert("overlay_packets_unkept", sum.packets_unkept);
    values.insert("overlay_packets_split", sum.packets_split);
    values.insert("overlay_memory_granted", sum.memory_granted);
    values.insert("overlay_memory_sending", sum.memory_sending);
    values.insert("overlay_memory_full", sum.memory_full);
    let limit = shared.overlay.memory_bytes() * shared.workers.len();
    values.insert("overlay_memory_limit", limit as u64);
    values.insert("overlay_epochs_rolled", sum.epochs.rolled);
    values.insert("overlay_epochs_failed", sum.epochs.failed);
    values.insert("overlay_epochs_put_off", sum.epochs.put_off);
    values.insert("overlay_paths_forgotten", sum.paths_forgotten);
    values.insert("overlay_packets_repairs", sum.repairs_sent);
    values.insert("overlay_packets_repaired", sum.packets_repaired);
    values.insert("overlay_connections", sum.connections);
    values.insert("overlay_handshakes_failed", sum.handshakes_failed.values().sum());
    for failure in HandshakeFailure::ALL {
        values.insert(failure.as_total(), sum.handshakes_failed.get(&failure).copied().unwrap_or(0));
    }
    values.insert("overlay_link_downs_sent", sum.link_downs.sent);
    values.insert("overlay_link_downs_passed_on", sum.link_downs.passed_on);
    values.insert("overlay_link_downs_heard", sum.link_downs.heard);
    values.insert("overlay_retries", sum.retries);
    for (reason, count) in sum.drops {
        *drops.entry(reason).or_default() += count;
    }
    for (reason, count) in [
        ("transit_uses_full", sum.link_downs.uses_full),
        ("transit_watch_full", sum.link_downs.watched_full),
        ("link_down_waiting_full", sum.link_downs.waiting_full),
    ] {
        *drops.entry(reason).or_default() += count;
    }
    let state = |(previous_hop, totals): (String, TransitTotals)| TransitState {
        previous_hop,
        packets: totals.packets,
        bytes: totals.bytes,
        drops: totals.drops.into_iter().collect(),
    };
    let mut transit: Vec<_> = sum.transit.into_iter().map(state).collect();
    transit.sort_unstable_by(|one, other| one.previous_hop.cmp(&other.previous_hop));
    transit
}

fn handles(tables: &Tables, running: Duration) -> Vec<HandleState> {
    let now_ms = u64::try_from(running.as_millis()).unwrap_or(u64::MAX);
    let in_use_ms = IN_USE.as_millis() as u64;
    let handles = tables.overlay.handles().map(|handle| {
        let active = handle.active_path().map(|path| path.id);
        let used_at_ms = handle.state.used_at_ms.load(Ordering::Relaxed);
        HandleState {
            peer: tables.overlay.peer(handle.peer).map(|peer| peer.name.clone()).unwrap_or_default(),
            policy: handle.policy.clone(),
            active_path: active.map(|path| path.0),
            // The engine leaves the primary path only when it is dead.
            primary_alive: active.is_some() && active == handle.paths.first().map(|path| path.id),
            in_use: used_at_ms != 0 && now_ms.saturating_sub(used_at_ms) <= in_use_ms,
            connections: handle.state.connections.load(Ordering::Relaxed),
            path_rtt_us: None,
        }
    });
    handles.collect()
}

/// The time of the next frame, without catching up on those that were missed.
pub(crate) fn next_after(now: Instant, last: Instant, every: Duration) -> Instant {
    (last + every).max(now)
}
