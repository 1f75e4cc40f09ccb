//! What the control thread and the workers share, and how they talk: tables swapped whole, commands down, reports up, counters.
//!
//! Nothing here blocks a worker for longer than a push to a queue; both queues are bounded.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use l4proxy_io::epoll::Waker;
use l4proxy_tunnel::Identity;
use l4proxy_wire::ids::PopId;

use crate::compile::Tables;
use crate::counters::{Dropped, WorkerCounters};
use crate::messages::{BusFrame, Event, EventKind, FlowRecord, FlowView, ListFlows, SampleView};
use crate::outcomes::Outcomes;
use crate::overlay::{OverlayShared, OverlayTotals};

/// Reports of one worker that wait for the control thread, and there for the daemon: half a minute of a worker that ends
/// thousands of flows a second.
pub(crate) const MAX_REPORTS: usize = 65_536;

/// Commands that wait for one worker. The daemon's are answered or few; more than this means that the worker is stuck.
const MAX_COMMANDS: usize = 4_096;

/// Descriptors that flows leave to the rest: a daemon that takes over, its sockets, a worker that begins anew. Without them an engine
/// that is full could not be spoken with any more, and would be taken for dead.
const RESERVED_DESCRIPTORS: u64 = 64;

/// What the control thread tells a worker. A new snapshot is not among it: workers see that themselves.
#[derive(Clone)]
pub(crate) enum Command {
    /// Who we are from here on.
    Identity(Box<Identity>),
    /// Send a control message to a neighbour (worker 0 has the pair connections).
    Bus(BusFrame),
    /// Report the flows that live now.
    ListFlows(Arc<ListFlows>),
    /// End every flow because the drain's deadline has come, and report how many there were.
    CloseFlows,
}

/// What a worker tells the control thread.
#[derive(Debug)]
pub(crate) enum Report {
    /// A flow has ended.
    Record(Box<FlowRecord>),
    /// A probe has a result.
    Sample(SampleView),
    /// Something happened.
    Event(Event),
    /// A control message of a neighbour.
    Bus(BusFrame),
    /// The answer to [`Command::ListFlows`]; `total` counts those over the limit, too.
    Flows { request: u64, flows: Vec<FlowView>, total: u64 },
    /// The answer to [`Command::CloseFlows`].
    Closed(u64),
}

/// What a worker says of its overlay every now and then.
#[derive(Debug, Default)]
pub(crate) struct OverlayStatus {
    pub(crate) totals: OverlayTotals,
    /// Of the overlays that this worker had before it panicked.
    pub(crate) before: OverlayTotals,
}

/// One worker's side of the bargain.
pub(crate) struct WorkerShared {
    pub(crate) counters: WorkerCounters,
    /// Wakes the worker.
    pub(crate) waker: Waker,
    commands: Mutex<VecDeque<Command>>,
    reports: Mutex<VecDeque<Report>>,
    pub(crate) overlay: Mutex<OverlayStatus>,
    /// What its flows got; the control thread takes it.
    pub(crate) outcomes: Mutex<Outcomes>,
    /// Epoch of the tables that it uses.
    pub(crate) epoch: AtomicU64,
    /// Tests have the worker panic with its next turn.
    #[cfg(test)]
    pub(crate) must_panic: AtomicBool,
    /// Every flow that is woken is polled from then on.
    #[cfg(test)]
    pub(crate) must_poll: AtomicBool,
    /// It takes no new flows, and the gauges below are of a moment after that.
    pub(crate) has_seen_drain: AtomicBool,
    /// Live TCP flows and UDP sessions.
    pub(crate) tcp_flows: AtomicU64,
    pub(crate) udp_sessions: AtomicU64,
    pub(crate) assured_sessions: AtomicU64,
}

impl WorkerShared {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            counters: WorkerCounters::default(),
            waker: Waker::new()?,
            commands: Mutex::default(),
            reports: Mutex::default(),
            overlay: Mutex::default(),
            outcomes: Mutex::default(),
            epoch: AtomicU64::new(0),
            #[cfg(test)]
            must_panic: AtomicBool::new(false),
            #[cfg(test)]
            must_poll: AtomicBool::new(false),
            has_seen_drain: AtomicBool::new(false),
            tcp_flows: AtomicU64::new(0),
            udp_sessions: AtomicU64::new(0),
            assured_sessions: AtomicU64::new(0),
        })
    }

    /// Live flows of either protocol.
    pub(crate) fn flows(&self) -> u64 {
        self.tcp_flows.load(Ordering::Relaxed) + self.udp_sessions.load(Ordering::Relaxed)
    }

    /// Tell the worker something and wake it. False: it is stuck, its queue is full.
    pub(crate) fn command(&self, command: Command) -> bool {
        let mut commands = lock(&self.commands);
        let has_room = commands.len() < MAX_COMMANDS;
        if has_room {
            commands.push_back(command);
        }
        drop(commands);
        // A waker's only failure is a descriptor that is not one any more, and this one lives as long as `self`.
        has_room && self.waker.wake().is_ok()
    }

    /// What the worker was told next. One by one: a panic over one command must not lose the others.
    pub(crate) fn next_command(&self) -> Option<Command> {
        lock(&self.commands).pop_front()
    }

    /// Hand reports over; what does not fit is counted.
    pub(crate) fn report(&self, reports: &mut Vec<Report>) {
        let mut queue = lock(&self.reports);
        let room = MAX_REPORTS.saturating_sub(queue.len());
        if reports.len() > room {
            self.counters.drop_many(Dropped::ControlQueueFull, (reports.len() - room) as u64);
            reports.truncate(room);
        }
        queue.extend(reports.drain(..));
    }

    /// What the worker reported.
    pub(crate) fn take_reports(&self) -> VecDeque<Report> {
        std::mem::take(&mut *lock(&self.reports))
    }
}

/// Everything that all threads of an engine share.
pub(crate) struct Shared {
    pub(crate) pop: String,
    pub(crate) pop_id: PopId,
    pub(crate) workers: Box<[WorkerShared]>,
    /// The tables in force.
    pub(crate) tables: ArcSwap<Tables>,
    pub(crate) identity: Mutex<Option<Identity>>,
    pub(crate) overlay: Arc<OverlayShared>,
    /// Wakes the control thread.
    pub(crate) control: Waker,
    /// New flows are not taken any more.
    pub(crate) is_draining: AtomicBool,
    /// The daemon wants a record of each flow that has ended; else they are only counted.
    pub(crate) wants_records: AtomicBool,
    /// Memory runs out: new flows are refused.
    pub(crate) is_short_of_memory: AtomicBool,
    /// Everybody ends now.
    pub(crate) is_stopping: AtomicBool,
    /// TCP flows of all workers: the cap is one for the engine.
    tcp_places: Arc<AtomicU32>,
    /// Descriptors from this number on are not for flows.
    first_reserved: u64,
    /// Keys the hashers of tables that clients could otherwise aim at.
    pub(crate) hasher: ahash::RandomState,
}

impl Shared {
    /// The state of an engine that has just begun.
    pub(crate) fn new(
        pop: String,
        pop_id: PopId,
        workers: usize,
        hasher: ahash::RandomState,
        max_descriptors: u64,
        now: Instant,
    ) -> std::io::Result<Self> {
        Ok(Self {
            pop,
            pop_id,
            workers: (0..workers).map(|_| WorkerShared::new()).collect::<Result<_, _>>()?,
            tables: ArcSwap::from_pointee(Tables::empty(pop_id)),
            identity: Mutex::default(),
            overlay: Arc::new(OverlayShared::new(now, workers)),
            control: Waker::new()?,
            is_draining: AtomicBool::new(false),
            wants_records: AtomicBool::new(true),
            is_short_of_memory: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            tcp_places: Arc::default(),
            first_reserved: max_descriptors.saturating_sub(RESERVED_DESCRIPTORS),
            hasher,
        })
    }

    /// Have every thread end.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Wake every worker, to see what has changed.
    pub(crate) fn wake_all(&self) {
        for worker in &self.workers {
            // Fails only for a descriptor that is not one any more, and this one lives as long as `self`.
            drop(worker.waker.wake());
        }
    }

    /// Tell every worker something.
    pub(crate) fn command_all(&self, command: &Command) {
        for worker in &self.workers {
            worker.command(command.clone());
        }
    }

    /// Whether no flow lives and none can begin any more.
    pub(crate) fn is_drained(&self) -> bool {
        self.workers.iter().all(|worker| worker.has_seen_drain.load(Ordering::Acquire) && worker.flows() == 0)
    }

    /// Whether a descriptor is one of those that flows must leave alone. The kernel gives the lowest free number, so a high one means
    /// that few are left.
    pub(crate) fn is_reserved(&self, fd: impl AsFd) -> bool {
        u64::try_from(fd.as_fd().as_raw_fd()).is_ok_and(|number| number >= self.first_reserved)
    }

    /// A place for one more TCP flow, if the engine may have one.
    pub(crate) fn tcp_place(&self, max: u32) -> Option<TcpPlace> {
        if self.tcp_places.fetch_add(1, Ordering::Relaxed) >= max {
            self.tcp_places.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(TcpPlace(self.tcp_places.clone()))
    }
}

/// The right of one TCP flow to exist in this engine. Dropping it gives the place back, also when a worker panics.
#[derive(Debug)]
pub(crate) struct TcpPlace(Arc<AtomicU32>);

impl Drop for TcpPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Add the totals of one overlay to those of another.
pub(crate) fn add_totals(sum: &mut OverlayTotals, totals: &OverlayTotals) {
    sum.packets_in += totals.packets_in;
    sum.packets_out += totals.packets_out;
    sum.bytes_in += totals.bytes_in;
    sum.bytes_out += totals.bytes_out;
    sum.packets_forwarded += totals.packets_forwarded;
    sum.bytes_forwarded += totals.bytes_forwarded;
    sum.packets_resent += totals.packets_resent;
    sum.packets_copied += totals.packets_copied;
    sum.address_moves += totals.address_moves;
    sum.packets_stray += totals.packets_stray;
    sum.suspicions += totals.suspicions;
    sum.packets_unkept += totals.packets_unkept;
    sum.packets_split += totals.packets_split;
    sum.memory_granted += totals.memory_granted;
    sum.memory_sending += totals.memory_sending;
    sum.memory_full += totals.memory_full;
    sum.repairs_sent += totals.repairs_sent;
    sum.packets_repaired += totals.packets_repaired;
    sum.connections += totals.connections;
    sum.epochs.rolled += totals.epochs.rolled;
    sum.epochs.failed += totals.epochs.failed;
    sum.epochs.put_off += totals.epochs.put_off;
    sum.paths_forgotten = sum.paths_forgotten.max(totals.paths_forgotten);
    for (&failure, count) in &totals.handshakes_failed {
        *sum.handshakes_failed.entry(failure).or_default() += count;
    }
    sum.retries += totals.retries;
    for (reason, count) in &totals.drops {
        *sum.drops.entry(reason).or_default() += count;
    }
    sum.link_downs.add(&totals.link_downs);
    for (previous, totals) in &totals.transit {
        let sum = sum.transit.entry_ref(previous.as_str()).or_default();
        sum.packets += totals.packets;
        sum.bytes += totals.bytes;
        for (reason, count) in &totals.drops {
            *sum.drops.entry(reason).or_default() += count;
        }
    }
}

/// A lock whose holder panicked guards plain data that is whole between any two statements here: go on with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nanoseconds of the wall clock.
pub(crate) fn wall_clock_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// An event that happened now.
pub(crate) fn event(kind: EventKind) -> Event {
    Event { at_ns: wall_clock_ns(), kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sequence: u32) -> Report {
        let link = String::from("ams/a>iad/a");
        Report::Sample(SampleView {
            link,
            sequence,
            sent_ns: 0,
            rtt_ns: None,
            received_ns: None,
            peer_received: None,
        })
    }

    #[test]
    fn reports_that_nobody_takes_are_bounded_and_counted() {
        let worker = WorkerShared::new().unwrap();
        let mut reports: Vec<_> = (0..MAX_REPORTS as u32 + 10).map(sample).collect();
        worker.report(&mut reports);
        assert!(reports.is_empty());
        assert_eq!(worker.counters.dropped(Dropped::ControlQueueFull), 10);
        worker.report(&mut vec![sample(0)]);
        assert_eq!(worker.counters.dropped(Dropped::ControlQueueFull), 11);
        assert_eq!(worker.take_reports().len(), MAX_REPORTS);
        worker.report(&mut vec![sample(0)]);
        assert_eq!(worker.take_reports().len(), 1);
    }

    #[test]
    fn commands_for_a_stuck_worker_are_bounded() {
        let worker = WorkerShared::new().unwrap();
        assert!((0..MAX_COMMANDS).all(|_| worker.command(Command::CloseFlows)));
        assert!(!worker.command(Command::CloseFlows));
        assert_eq!(std::iter::from_fn(|| worker.next_command()).count(), MAX_COMMANDS);
        assert!(worker.command(Command::CloseFlows));
    }

    #[test]
    fn places_for_tcp_flows_are_counted_over_all_workers() {
        let shared = Shared::new(
            "ams".into(),
            PopId(1),
            2,
            ahash::RandomState::with_seeds(1, 2, 3, 4),
            100,
            Instant::now(),
        )
        .unwrap();
        let places: Vec<_> = (0..3).map_while(|_| shared.tcp_place(3)).collect();
        assert_eq!(places.len(), 3);
        assert!(shared.tcp_place(3).is_none());
        drop(places);
        assert!(shared.tcp_place(1).is_some());
    }
}
