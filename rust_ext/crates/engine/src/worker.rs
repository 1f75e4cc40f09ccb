//! One worker: a thread with an epoll loop of its own, and everything of its flows.
//!
//! A turn: wait; what is ready; what could go on; what is due; the overlay. Each part is bounded, so nothing starves the rest. A
//! panic is caught here: the flows of this worker are closed, counted and told, and the worker begins anew with its sockets.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use l4proxy_io::epoll::{Epoll, Event as Readiness, Events, Interest};
use l4proxy_io::threads;
use l4proxy_io::udp::RecvBatch;
use l4proxy_proto::moderation::Moderation;
use l4proxy_wire::ids::PopId;

use crate::admission::recheck::Recheck;
use crate::compile::Tables;
use crate::counters::{Dropped, Value};
use crate::denials::Denials;
use crate::edge::ending::Ending;
use crate::edge::tcp::TcpEdge;
use crate::edge::udp::UdpEdge;
use crate::messages::{BusFrame, EventKind, SampleView};
use crate::overlay::{Overlay, OverlayEvent, OverlayReport};
use crate::random::{self, Random};
use crate::shared::{Command, Report, Shared, WorkerShared, add_totals, event, lock, wall_clock_ns};
use crate::sockets::Held;
use crate::token::Token;
use crate::turn::Turn;

#[cfg(test)]
mod tests;

/// Ready descriptors of one turn: with what each may move, a turn of a worker that is full of bulk transfers stays below some 5 ms.
const EVENTS_PER_TURN: usize = 64;

/// How often the overlay and the edges answer each other in one turn.
const OVERLAY_ROUNDS: usize = 16;

/// Datagrams of one receive call at an overlay socket, each up to 64 kB because the kernel may have merged several.
const OVERLAY_BATCH: usize = 64;
const OVERLAY_DATAGRAM: usize = 65_536;

/// How often the worker's overlay tells its totals; the daemon gets them every second.
const STATUS_EVERY: Duration = Duration::from_millis(250);

/// How long records of ended flows may wait before the control thread is woken for them: a wake-up of it and of the daemon for every
/// short flow costs more than the flow.
const RECORDS_WAIT: Duration = Duration::from_millis(50);

/// How long a worker that panicked waits before it begins anew: one that panics at once must not keep a core busy with it.
const RESTART_PAUSE: Duration = Duration::from_millis(50);

/// The life of a worker thread: it returns when the engine stops.
pub(crate) fn run(index: usize, shared: &Arc<Shared>) {
    // Neither can fail for the calling thread; were they to, signals would reach a thread that ignores them, and timers be coarse.
    drop(threads::block_all_signals());
    drop(threads::make_timers_exact());
    let own = &shared.workers[index];
    while !shared.is_stopping.load(Ordering::Acquire) {
        let life = catch_unwind(AssertUnwindSafe(|| {
            Worker::new(index, shared).and_then(|mut worker| worker.work())
        }));
        let message = match life {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => message_of(&*panic),
        };
        bury(index, own, message);
        // A failed wake only delays the news to the control thread's next tick.
        drop(shared.control.wake());
        std::thread::sleep(RESTART_PAUSE);
    }
}

/// Count what a worker lost with its life, and tell.
fn bury(index: usize, own: &WorkerShared, message: String) {
    own.counters.add(Value::WorkerPanics, 1);
    own.counters.add(Value::FlowsLostToPanics, own.flows());
    for gauge in [&own.tcp_flows, &own.udp_sessions, &own.assured_sessions] {
        gauge.store(0, Ordering::Relaxed);
    }
    own.report(&mut vec![Report::Event(event(EventKind::WorkerPanicked { worker: index, message }))]);
    let mut status = lock(&own.overlay);
    let mut totals = std::mem::take(&mut status.totals);
    totals.connections = 0;
    add_totals(&mut status.before, &totals);
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".into())
}

/// Everything that one worker has.
struct Worker<'a> {
    index: usize,
    shared: &'a Arc<Shared>,
    epoll: Epoll,
    events: Events,
    /// Room for what the kernel has said, while it is worked off.
    ready: Vec<Readiness>,
    /// Descriptors that were ready when the turn began.
    woken_by: usize,
    tables: Arc<Tables>,
    overlay: Overlay,
    /// Overlay sockets in use, by what they are: their numbers in the overlay.
    overlay_sockets: HashMap<usize, usize>,
    overlay_batch: RecvBatch,
    tcp: TcpEdge,
    udp: UdpEdge,
    random: Random,
    reports: Vec<Report>,
    denials: Denials,
    is_draining: bool,
    /// The wall clock when the turn began.
    wall_ns: u64,
    /// There are or were other PoPs: without any the overlay has nothing to do.
    has_overlay: bool,
    /// The overlay had more to say than one turn allows.
    has_overlay_work: bool,
    status_at: Instant,
    /// When the control thread is to be woken for the records that lie in its queue.
    tell_at: Option<Instant>,
    moderation: Moderation,
    /// Datagram frames that came through the overlay in this turn.
    frames: u64,
    /// A turn with TCP in it is never followed by a pause: its flows fill their turns by themselves.
    had_tcp: bool,
    /// Flows whose clients may be denied by now.
    recheck: Recheck,
}

impl<'a> Worker<'a> {
    fn new(index: usize, shared: &'a Arc<Shared>) -> std::io::Result<Self> {
        let now = Instant::now();
        let mut seed = [0; 32];
        random::fill(&mut seed);
        let epoll = Epoll::new()?;
        epoll.add(&shared.workers[index].waker, Token::Waker.pack(), Interest::READ)?;
        // The engine has at most 256 workers: their number is one byte on the wire.
        let mut overlay = Overlay::new(now, index as u8, shared.pop_id, seed, shared.overlay.clone());
        let identity = lock(&shared.identity).clone();
        if let Some(identity) = identity {
            // Refused once, it would have been refused for good: `control` told so.
            drop(overlay.set_identity(now, identity));
        }
        Ok(Self {
            index,
            shared,
            epoll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            ready: Vec::with_capacity(EVENTS_PER_TURN),
            woken_by: 0,
            tables: Arc::new(Tables::empty(shared.pop_id)),
            overlay,
            overlay_sockets: HashMap::new(),
            overlay_batch: RecvBatch::new(OVERLAY_BATCH, OVERLAY_DATAGRAM),
            tcp: TcpEdge::new(),
            udp: UdpEdge::new(shared.hasher.clone()),
            random: Random::new(),
            reports: Vec::new(),
            denials: Denials::default(),
            is_draining: false,
            wall_ns: wall_clock_ns(),
            has_overlay: false,
            has_overlay_work: false,
            status_at: now,
            tell_at: None,
            moderation: Moderation::new(now),
            frames: 0,
            had_tcp: false,
            recheck: Recheck::default(),
        })
    }

    /// Turn after turn, until the engine stops.
    fn work(&mut self) -> std::io::Result<()> {
        loop {
            let now = Instant::now();
            if self.shared.is_stopping.load(Ordering::Acquire) {
                self.overlay.shut_down(now);
                return Ok(());
            }
            self.follow(now);
            self.publish(now);
            let timeout = self.timeout(now);
            let count = self.epoll.wait(&mut self.events, timeout)?;
            let received = self.datagrams_received();
            self.turn(count);
            let datagrams = self.datagrams_received() - received + std::mem::take(&mut self.frames);
            self.pause(datagrams);
        }
    }

    /// After a turn with so many datagrams, from sockets and out of tunnels: let more come together, where that saves wake-ups.
    fn pause(&mut self, datagrams: u64) {
        let had_tcp = std::mem::take(&mut self.had_tcp);
        if datagrams == 0 {
            return;
        }
        let pause = self.moderation.after_turn(Instant::now(), datagrams as usize);
        if !pause.is_zero() && !had_tcp && !self.tcp.has_work() && !self.has_overlay_work {
            self.shared.workers[self.index].counters.add(Value::Pauses, 1);
            std::thread::sleep(pause);
        }
    }

    fn datagrams_received(&self) -> u64 {
        self.shared.workers[self.index].counters.get(Value::DatagramsReceived)
    }

    /// The parts of the worker, borrowed apart.
    fn parts(&mut self, now: Instant) -> (Turn<'_>, &mut TcpEdge, &mut UdpEdge) {
        let turn = Turn {
            now,
            wall_ns: self.wall_ns,
            ready: self.woken_by,
            worker: self.index,
            epoll: &self.epoll,
            shared: self.shared,
            counters: &self.shared.workers[self.index].counters,
            tables: &self.tables,
            overlay: &mut self.overlay,
            reports: &mut self.reports,
            denials: &mut self.denials,
            random: &mut self.random,
            is_draining: self.is_draining,
        };
        (turn, &mut self.tcp, &mut self.udp)
    }

    /// Take what the control thread has changed into force.
    fn follow(&mut self, now: Instant) {
        // An identity comes before the snapshot that needs it.
        while let Some(command) = self.shared.workers[self.index].next_command() {
            self.obey(now, command);
        }
        let is_draining = self.shared.is_draining.load(Ordering::Acquire);
        let tables = self.shared.tables.load();
        let is_new = tables.epoch != self.tables.epoch;
        if is_new || is_draining != self.is_draining {
            self.tables = tables.clone();
            drop(tables);
            self.is_draining = is_draining;
            if is_new {
                self.has_overlay |= !self.tables.overlay.peers.is_empty();
                self.overlay.apply(now, self.tables.overlay.clone());
                self.apply_overlay_sockets();
            }
            self.recheck.follow(&self.tables);
            let (mut turn, tcp, udp) = self.parts(now);
            tcp.apply(&mut turn);
            udp.apply(&mut turn);
            self.shared.workers[self.index].epoch.store(self.tables.epoch, Ordering::Release);
            // A failed wake only delays the answer to the control thread's next tick.
            drop(self.shared.control.wake());
        }
    }

    fn apply_overlay_sockets(&mut self) {
        let mut before = std::mem::take(&mut self.overlay_sockets);
        let tables = self.tables.clone();
        let mut added = Vec::new();
        for place in &tables.overlay_sockets {
            let held = &place.sockets[self.index];
            match before.remove(&held.identity()) {
                Some(number) => drop(self.overlay_sockets.insert(held.identity(), number)),
                None => added.push((place.local, held.clone())),
            }
        }
        // First those that are gone: the overlay gives the number of an address to its next socket.
        for number in before.into_values() {
            if let Some(socket) = self.overlay.socket(number) {
                drop(self.epoll.remove(socket));
            }
        }
        for (local, held) in added {
            if let Err(error) = self.add_overlay_socket(local, &held) {
                let (address, port) = (local.ip().to_string(), local.port());
                let (protocol, worker, reason) =
                    (crate::snapshot::Protocol::Udp, self.index, error.to_string());
                let kind = EventKind::ListenerError { protocol, address, port, worker, reason };
                self.reports.push(Report::Event(event(kind)));
            }
        }
    }

    fn add_overlay_socket(&mut self, local: std::net::SocketAddr, held: &Held) -> std::io::Result<()> {
        use std::os::fd::AsFd;
        let number = self.overlay.add_socket(local, held.as_fd().try_clone_to_owned()?)?;
        if let Some(socket) = self.overlay.socket(number) {
            self.epoll.add(socket, Token::Overlay(number as u32).pack(), Interest::READ)?;
        }
        self.overlay_sockets.insert(held.identity(), number);
        Ok(())
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Identity(identity) => {
                if let Err(error) = self.overlay.set_identity(now, *identity) {
                    let kind = EventKind::IdentityRefused { reason: error.to_string() };
                    self.reports.push(Report::Event(event(kind)));
                }
            }
            Command::Bus(BusFrame { peer, payload }) => {
                let peer =
                    self.tables.overlay.peers.iter().find(|known| known.name == peer).map(|peer| peer.id);
                if !peer.is_some_and(|peer| self.overlay.send_bus(peer, &payload)) {
                    self.shared.workers[self.index].counters.drop(Dropped::BusNotSent);
                }
                self.has_overlay_work = true;
            }
            Command::ListFlows(request) => {
                let (turn, tcp, udp) = self.parts(now);
                let mut flows = Vec::new();
                let total = tcp.list(&request, &mut flows, &turn) + udp.list(&request, &mut flows, &turn);
                self.reports.push(Report::Flows { request: request.request, flows, total });
            }
            Command::CloseFlows => {
                let (mut turn, tcp, udp) = self.parts(now);
                let closed = tcp.close_all(Ending::DrainDeadline, &mut turn)
                    + udp.close_all(Ending::DrainDeadline, &mut turn);
                self.overlay.pump(now, wall_clock_ns());
                self.reports.push(Report::Closed(closed));
            }
        }
    }

    /// Hand over what the control thread should know.
    fn publish(&mut self, now: Instant) {
        let own = &self.shared.workers[self.index];
        own.tcp_flows.store(self.tcp.len() as u64, Ordering::Relaxed);
        own.udp_sessions.store(self.udp.len() as u64, Ordering::Relaxed);
        own.assured_sessions.store(self.udp.assured() as u64, Ordering::Relaxed);
        own.has_seen_drain.store(self.is_draining, Ordering::Release);
        if now >= self.status_at {
            self.status_at = now + STATUS_EVERY;
            lock(&own.overlay).totals = self.overlay.totals();
            let full = lock(&own.outcomes).add_paths(self.overlay.take_carried());
            own.counters.drop_many(Dropped::OutcomesFull, full);
        }
        if !self.reports.is_empty() {
            let is_urgent = self.reports.iter().any(|report| !matches!(report, Report::Record(_)));
            own.report(&mut self.reports);
            let tell_at = *self.tell_at.get_or_insert(now + RECORDS_WAIT);
            self.tell_at = Some(if is_urgent { now } else { tell_at });
        }
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_at = None;
            // A failed wake only delays the reports to the control thread's next tick.
            drop(self.shared.control.wake());
        }
    }

    /// How long the worker may sleep.
    fn timeout(&mut self, now: Instant) -> Option<Duration> {
        if self.tcp.has_work() || self.has_overlay_work || self.recheck.has_work() {
            return Some(Duration::ZERO);
        }
        let edges = [self.tcp.poll_timeout(), self.udp.poll_timeout()];
        let overlay =
            if self.has_overlay { [self.overlay.poll_timeout(), Some(self.status_at)] } else { [None, None] };
        let first = edges.into_iter().chain(overlay).chain([self.tell_at]).flatten().min();
        first.map(|at| at.saturating_duration_since(now))
    }

    fn turn(&mut self, count: usize) {
        let now = Instant::now();
        self.wall_ns = wall_clock_ns();
        self.woken_by = count;
        self.shared.workers[self.index].counters.add(Value::Wakeups, 1);
        #[cfg(test)]
        assert!(!self.shared.workers[self.index].must_panic.swap(false, Ordering::AcqRel), "told to panic");
        let mut ready = std::mem::take(&mut self.ready);
        ready.extend(self.events.iter().take(count));
        for readiness in ready.drain(..) {
            self.dispatch(now, readiness);
        }
        self.ready = ready;
        let (mut turn, tcp, udp) = self.parts(now);
        udp.flush(&mut turn);
        tcp.resume(&mut turn);
        if tcp.poll_timeout().is_some_and(|at| at <= now) {
            tcp.handle_timeout(&mut turn);
        }
        if udp.poll_timeout().is_some_and(|at| at <= now) {
            udp.handle_timeout(&mut turn);
        }
        if self.recheck.has_work() {
            self.recheck(now);
        }
        if self.has_overlay {
            self.overlay.take_strays(now);
            self.overlay.handle_timeout(now);
            self.exchange(now);
            self.take_overlay_reports();
        }
    }

    fn recheck(&mut self, now: Instant) {
        let mut recheck = std::mem::take(&mut self.recheck);
        let (mut turn, tcp, udp) = self.parts(now);
        recheck.step(tcp, udp, &mut turn);
        self.recheck = recheck;
    }

    fn dispatch(&mut self, now: Instant, readiness: Readiness) {
        let Some(token) = Token::unpack(readiness.token) else { return };
        match token {
            // What it means is seen before the next wait.
            Token::Waker => drop(self.shared.workers[self.index].waker.reset()),
            Token::Overlay(number) => {
                let (wall, batch) = (wall_clock_ns(), &mut self.overlay_batch);
                // An error here is an ICMP message about a packet that went out: hellos notice what does not arrive.
                drop(self.overlay.handle_readable(now, wall, number as usize, batch));
                for worker in self.overlay.take_to_wake() {
                    // A failed wake only delays its packets to its next turn.
                    drop(self.shared.workers[worker].waker.wake());
                }
            }
            Token::TcpListener(_)
            | Token::TcpClient(_)
            | Token::TcpOrigin(_)
            | Token::TcpRace(_)
            | Token::TcpGreeting(_) => {
                self.had_tcp = true;
                let (mut turn, tcp, _) = self.parts(now);
                tcp.handle_event(token, readiness, &mut turn);
            }
            Token::UdpListener(_) | Token::UdpIngress(_) | Token::UdpEgress(_) => {
                let (mut turn, _, udp) = self.parts(now);
                udp.handle_event(token, readiness, &mut turn);
            }
        }
    }

    /// Let the overlay send, and tell the edges what came, until neither has anything for the other.
    fn exchange(&mut self, now: Instant) {
        for _ in 0..OVERLAY_ROUNDS {
            self.overlay.pump(now, wall_clock_ns());
            let arena = self.overlay.take_frames();
            let mut is_quiet = arena.is_empty();
            self.frames += arena.len() as u64;
            let (mut turn, tcp, udp) = self.parts(now);
            udp.handle_frames(&arena, &mut turn);
            turn.overlay.give_back(arena);
            let mut had_stream = false;
            while let Some(event) = turn.overlay.poll_event() {
                is_quiet = false;
                had_stream |= event.is_of_a_stream();
                tell_edges(event, tcp, udp, &mut turn);
            }
            self.had_tcp |= had_stream;
            if is_quiet {
                self.has_overlay_work = false;
                return;
            }
        }
        self.has_overlay_work = true;
    }

    fn take_overlay_reports(&mut self) {
        if self.overlay.take_alarm() {
            self.shared.wake_all();
        }
        while let Some(report) = self.overlay.poll_report() {
            let report = convert(report, &self.tables);
            self.reports.extend(report);
        }
    }
}

fn tell_edges(event: OverlayEvent, tcp: &mut TcpEdge, udp: &mut UdpEdge, turn: &mut Turn<'_>) {
    match event {
        OverlayEvent::StreamIncoming { key, peer, open } => tcp.handle_incoming(key, peer, &open, turn),
        OverlayEvent::StreamOpened { key } => tcp.handle_opened(key, turn),
        OverlayEvent::StreamRefused { key, reason } => tcp.handle_refused(key, reason, turn),
        OverlayEvent::StreamReadable { key } => tcp.handle_stream_readable(key, turn),
        OverlayEvent::StreamWritable { key } => tcp.handle_stream_writable(key, turn),
        OverlayEvent::StreamGone { key, code, loss } => tcp.handle_stream_gone(key, code, loss, turn),
        OverlayEvent::ChannelGone { channel } => udp.handle_channel_gone(channel, turn),
        OverlayEvent::PeerPresence { peer, presence } => {
            tcp.handle_presence(peer, presence, turn);
            udp.handle_presence(peer, presence, turn);
        }
    }
}

/// In the daemon's words: names instead of ids. A peer or link that has just left the snapshot has no name any more.
fn convert(report: OverlayReport, tables: &Tables) -> Option<Report> {
    let name = |peer: PopId| tables.overlay.peer(peer).map(|peer| peer.name.clone());
    let kind = match report {
        OverlayReport::Sample(sample) => {
            let link = tables.overlay.link_index(sample.link).map(|index| &tables.overlay.links[index])?;
            return Some(Report::Sample(SampleView {
                link: link.name.clone(),
                sequence: sample.sequence,
                sent_ns: sample.sent_ns,
                rtt_ns: sample.rtt_ns,
                received_ns: sample.received_ns,
                peer_received: sample.peer_received,
            }));
        }
        OverlayReport::Bus { peer, payload } => {
            return Some(Report::Bus(BusFrame { peer: name(peer)?, payload }));
        }
        OverlayReport::TunnelUp { peer } => EventKind::TunnelUp { peer: name(peer)? },
        OverlayReport::TunnelDown { peer, failure, reason } => {
            EventKind::TunnelDown { peer: name(peer)?, failure: failure.as_str(), reason }
        }
        OverlayReport::PeerRefused { peer, failure, reason } => {
            EventKind::PeerRefused { peer: name(peer)?, failure: failure.as_str(), reason }
        }
        OverlayReport::PathDead { peer, path, links } => {
            EventKind::PathDead { peer: name(peer)?, path_id: path.0, links }
        }
        OverlayReport::PathAlive { peer, path, links } => {
            EventKind::PathAlive { peer: name(peer)?, path_id: path.0, links }
        }
        OverlayReport::PathGraded { peer, path, links, quality } => {
            let (lost, of) = quality.lost;
            EventKind::PathGraded {
                peer: name(peer)?,
                path_id: path.0,
                links,
                lossy: quality.is_lossy,
                grey: quality.is_grey,
                lost,
                of,
            }
        }
        OverlayReport::PeerLost { peer, silence_us } => EventKind::PeerLost { peer: name(peer)?, silence_us },
        OverlayReport::PeerBack { peer } => EventKind::PeerBack { peer: name(peer)? },
        OverlayReport::HandleMoved { peer, policy, from, to, silence_us } => {
            EventKind::HandleMoved { peer: name(peer)?, policy, from, to, gap_us: silence_us }
        }
    };
    Some(Report::Event(event(kind)))
}
