//! The control thread: one daemon at a time (a new one replaces the old), what it asks for, and what it is told.
//!
//! It never touches a flow. A snapshot is compiled here, swapped for all workers at once, and answered when all of them use it.
//! Without a daemon everything goes on.

mod waiting;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hashbrown::HashSet;
use l4proxy_io::epoll::{Epoll, Events, Interest};
use l4proxy_tunnel::{Identity, Revoked};

use self::waiting::{DRAIN_LOOK_EVERY, Draining, Listing};
use crate::admission::lists::AccessLists;
use crate::admission::memory;
use crate::compile::{AppStates, Compiler, Tables};
use crate::connection::{Connection, ConnectionError};
use crate::messages::{
    DaemonHello, Down, Drain, EngineHello, EventKind, IdentityFrame, PROTOCOL_VERSION, SocketKey, Up,
};
use crate::overlay::OverlayStates;
use crate::shared::{Command, Report, Shared, event, lock};
use crate::snapshot::Snapshot;
use crate::sockets::{Held, Sockets};
use crate::status::{self, Peers};
use crate::upward::Upward;

/// How often counters are sent.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether flows had outcomes to tell: an egress that cannot reach an origin is left within less than a second.
const OUTCOMES_EVERY: Duration = Duration::from_millis(250);

/// How often is looked what memory is left: at the border there is enough for a second of any flood.
const MEMORY_EVERY: Duration = Duration::from_secs(1);

/// Sockets that the daemon may hand over.
const MAX_SOCKETS: usize = 1 << 20;

/// How long a daemon waits that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the last words of a drain may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

const LISTENER: u64 = 0;
const WAKER: u64 = 1;
const FIRST_DAEMON: u64 = 2;

/// The daemon that is connected now.
struct Daemon {
    connection: Connection,
    /// Its epoll token, never used again: an event for the one before must not be taken for one of this one.
    token: u64,
    wants_room: bool,
}

/// Everything of the control thread.
pub(crate) struct Control {
    shared: Arc<Shared>,
    epoll: Epoll,
    listener: OwnedFd,
    daemon: Option<Daemon>,
    next_token: u64,
    sockets: Sockets,
    app_states: AppStates,
    overlay_states: OverlayStates,
    access_lists: AccessLists,
    /// Snapshots that not all workers use yet: epoch and generation.
    applying: VecDeque<(u64, u64)>,
    listings: Vec<Listing>,
    upward: Upward,
    peers: Peers,
    started: Instant,
    counters_at: Instant,
    /// When to look what became of flows.
    outcomes_at: Instant,
    /// When it was told last what links and paths carried; None: not to this daemon.
    carried_at: Option<Instant>,
    /// When to look what memory is left.
    memory_at: Instant,
    draining: Option<Draining>,
    /// When to look for a daemon again, after one could not be accepted.
    accept_again: Option<Instant>,
    is_over: bool,
}

impl Control {
    pub(crate) fn new(listener: OwnedFd, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(&listener, LISTENER, Interest::READ)?;
        epoll.add(&shared.control, WAKER, Interest::READ)?;
        let now = Instant::now();
        Ok(Self {
            shared,
            epoll,
            listener,
            daemon: None,
            next_token: FIRST_DAEMON,
            sockets: Sockets::new(),
            app_states: AppStates::new(),
            overlay_states: OverlayStates::default(),
            access_lists: AccessLists::new(),
            applying: VecDeque::new(),
            listings: Vec::new(),
            upward: Upward::new(now),
            peers: Peers::new(),
            started: now,
            counters_at: now,
            outcomes_at: now,
            carried_at: None,
            memory_at: now,
            draining: None,
            accept_again: None,
            is_over: false,
        })
    }

    /// Serve daemons until one of them ends the engine.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(16);
        while !self.is_over {
            let timeout = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
            self.epoll.wait(&mut events, timeout)?;
            let now = Instant::now();
            let ready: Vec<_> = events.iter().collect();
            for event in ready {
                match event.token {
                    LISTENER => self.accept()?,
                    WAKER => drop(self.shared.control.reset()?),
                    token => self.handle_daemon(now, token),
                }
            }
            if self.accept_again.is_some_and(|at| at <= now) {
                self.accept_again = None;
                self.epoll.modify(&self.listener, LISTENER, Interest::READ)?;
            }
            self.look_at_memory(now);
            self.take_reports();
            self.finish_applying();
            self.finish_listings(now);
            self.drain(now);
            self.tell(now);
        }
        self.say_last_words(&mut events);
        Ok(())
    }

    /// When something is due.
    fn deadline(&self) -> Option<Instant> {
        let counters = self.daemon.as_ref().map(|_| self.counters_at.min(self.outcomes_at));
        let samples = self.daemon.as_ref().and_then(|_| self.upward.poll_timeout());
        let listings = self.listings.iter().map(|listing| listing.deadline).min();
        let drain = self.draining.as_ref().map(|_| Instant::now() + DRAIN_LOOK_EVERY);
        [counters, samples, listings, drain, self.accept_again, Some(self.memory_at)]
            .into_iter()
            .flatten()
            .min()
    }

    /// A daemon has come: it replaces the one before.
    fn accept(&mut self) -> io::Result<()> {
        let fd = match l4proxy_io::control::accept(&self.listener) {
            Ok(Some(fd)) => fd,
            Ok(None) => return Ok(()),
            Err(_) => {
                // A shortage is no reason to stop carrying flows. The daemon waits in the backlog, which must not wake us all the time.
                self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                return self.epoll.modify(&self.listener, LISTENER, Interest::NONE);
            }
        };
        let token = self.next_token;
        self.next_token += 1;
        self.epoll.add(&fd, token, Interest::READ)?;
        self.daemon = Some(Daemon { connection: Connection::new(fd), token, wants_room: false });
        self.applying.clear();
        self.listings.clear();
        Ok(())
    }

    fn handle_daemon(&mut self, now: Instant, token: u64) {
        if self.daemon.as_ref().is_none_or(|daemon| daemon.token != token) {
            return;
        }
        if let Err(error) = self.read(now) {
            self.hang_up(&error);
        }
    }

    fn read(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        daemon.connection.fill()?;
        while let Some(daemon) = &mut self.daemon {
            let Some((frame, descriptor)) = daemon.connection.next_frame()? else { break };
            // A daemon of another version cannot be spoken with, but may end an engine that it cannot use.
            if !daemon.connection.is_introduced && !matches!(frame, Down::Hello(_) | Down::Stop(_)) {
                return Err(ConnectionError::NotIntroduced);
            }
            self.obey(now, frame, descriptor)?;
        }
        Ok(())
    }

    /// End the daemon's connection, with a word of why. Flows go on, and it may come again.
    fn hang_up(&mut self, error: &ConnectionError) {
        if let Some(mut daemon) = self.daemon.take().filter(|_| error.is_worth_telling()) {
            let told = daemon.connection.say(&Up::Goodbye { reason: error.to_string() });
            // One that takes nothing more finds the connection closed, and no reason.
            drop(told.and_then(|()| daemon.connection.flush()));
        }
    }

    fn obey(
        &mut self,
        now: Instant,
        frame: Down,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), ConnectionError> {
        match frame {
            Down::Hello(DaemonHello { protocol, records }) => {
                self.shared.wants_records.store(records, Ordering::Relaxed);
                let hello = self.hello();
                if let Some(daemon) = &mut self.daemon {
                    daemon.connection.is_introduced = protocol == PROTOCOL_VERSION;
                    daemon.connection.say(&Up::Hello(hello))?;
                    (self.counters_at, self.outcomes_at) = (now, now);
                    // What was seen before nobody asked for is not of this moment any more.
                    self.carried_at = None;
                }
            }
            Down::Identity(identity) => self.take_identity(&identity),
            Down::Socket(key) => self.take_socket(key, descriptor)?,
            Down::AccessList(list) => self.access_lists.take(list),
            Down::Apply(snapshot) => {
                let generation = snapshot.generation;
                if let Err(reason) = self.apply(&snapshot) {
                    self.say(&Up::Refused { generation, reason })?;
                }
            }
            Down::Bus(bus) => {
                if !self.shared.workers[0].command(Command::Bus(bus)) {
                    self.upward.bus.dropped += 1;
                }
            }
            Down::ListFlows(request) => self.list(now, request)?,
            Down::Whois(whois) => self.whois(now, whois)?,
            Down::Drain(Drain { deadline_ms }) => self.begin_drain(now, Duration::from_millis(deadline_ms)),
            Down::Stop(_) => self.is_over = true,
        }
        Ok(())
    }

    fn say(&mut self, up: &Up<'_>) -> Result<(), ConnectionError> {
        match &mut self.daemon {
            Some(daemon) => daemon.connection.say(up),
            None => Ok(()),
        }
    }

    fn hello(&self) -> EngineHello {
        let mut sockets: Vec<_> = self.sockets.keys().cloned().collect();
        sockets.sort_unstable();
        EngineHello {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            workers: self.shared.workers.len(),
            generation: self.shared.tables.load().generation,
            pop: self.shared.pop.clone(),
            sockets,
            access_lists: self.access_lists.ids(),
            has_identity: lock(&self.shared.identity).is_some(),
        }
    }

    fn take_identity(&mut self, frame: &IdentityFrame) {
        let IdentityFrame { fleet, pop, ca_pem, cert_pem, key_pem, revoked_pops, revoked_serials, .. } =
            frame;
        let revoked = Revoked::new(revoked_pops.iter().cloned(), revoked_serials);
        let identity =
            Identity::from_pem(fleet, pop, ca_pem, cert_pem, key_pem).map_err(|error| error.to_string());
        let identity = identity.and_then(|identity| {
            let own = &self.shared.pop;
            if pop == own {
                Ok(identity.with_revoked(revoked).with_reset_key(&frame.reset_key))
            } else {
                Err(format!("it is that of {pop}, and this is {own}"))
            }
        });
        match identity {
            Ok(identity) => {
                *lock(&self.shared.identity) = Some(identity.clone());
                self.shared.command_all(&Command::Identity(Box::new(identity)));
            }
            Err(reason) => self.upward.events.push(event(EventKind::IdentityRefused { reason })),
        }
    }

    fn take_socket(&mut self, key: SocketKey, descriptor: Option<OwnedFd>) -> Result<(), ConnectionError> {
        let fd = descriptor.ok_or(ConnectionError::Descriptors)?;
        let is_known = self.sockets.contains_key(&key);
        if key.worker as usize >= self.shared.workers.len()
            || (self.sockets.len() >= MAX_SOCKETS && !is_known)
        {
            return Err(ConnectionError::Descriptors);
        }
        self.sockets.insert(key.clone(), Held::new(key.protocol, fd)?);
        Ok(())
    }

    /// Put a snapshot into force, or say why not.
    fn apply(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        if self.draining.is_some() {
            return Err("the engine is draining".into());
        }
        let epoch = self.shared.tables.load().epoch + 1;
        let compiler = Compiler {
            epoch,
            workers: self.shared.workers.len(),
            has_identity: lock(&self.shared.identity).is_some(),
            sockets: &self.sockets,
            hasher: &self.shared.hasher,
            app_states: &mut self.app_states,
            overlay_states: &mut self.overlay_states,
            access_lists: &mut self.access_lists,
        };
        let mut tables = compiler.compile(snapshot).map_err(|refused| refused.to_string())?;
        self.steer(&tables).map_err(|error| format!("cannot steer the overlay's packets: {error}"))?;
        let in_force = self.shared.tables.load();
        tables.access_epoch = in_force.access_epoch + u64::from(tables.has_other_access(&in_force));
        self.access_lists.keep(tables.apps.iter().map(|app| &app.policy.access));
        let named: HashSet<_> = tables.socket_keys().collect();
        self.sockets.retain(|key, _| named.contains(key));
        let before = std::mem::take(&mut self.peers);
        let state_of = |name: &String| before.get(name).copied().unwrap_or((false, 0));
        self.peers =
            tables.overlay.peers.iter().map(|peer| (peer.name.clone(), state_of(&peer.name))).collect();
        self.applying.push_back((epoch, tables.generation));
        self.shared.tables.store(Arc::new(tables));
        self.shared.wake_all();
        Ok(())
    }

    /// Let the kernel give each packet of an overlay port to its worker. Only a group of several needs it.
    fn steer(&self, tables: &Tables) -> io::Result<()> {
        let Some(workers) = u32::try_from(self.shared.workers.len()).ok().and_then(std::num::NonZeroU32::new)
        else {
            return Ok(());
        };
        for place in tables.overlay_sockets.iter().filter(|place| place.sockets.len() > 1) {
            l4proxy_io::steer::attach(&place.sockets[0], workers)?;
        }
        Ok(())
    }

    /// Answer for the snapshots that all workers use.
    fn finish_applying(&mut self) {
        let workers = self.shared.workers.iter();
        let slowest = workers.map(|worker| worker.epoch.load(Ordering::Acquire)).min().unwrap_or(0);
        while let Some(&(epoch, generation)) = self.applying.front() {
            if epoch > slowest {
                return;
            }
            self.applying.pop_front();
            if self.say(&Up::Applied { generation }).is_err() {
                self.daemon = None;
            }
        }
    }

    fn take_reports(&mut self) {
        let shared = self.shared.clone();
        for worker in &shared.workers {
            for report in worker.take_reports() {
                self.take_report(report);
            }
        }
        if self.daemon.is_none() {
            self.upward.without_daemon();
        }
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::Record(record) => self.upward.records.push(*record),
            Report::Sample(sample) => self.upward.samples.push(sample),
            Report::Bus(bus) => self.upward.bus.push(bus),
            Report::Event(event) => {
                match &event.kind {
                    EventKind::TunnelUp { peer } => self.note_peer(peer, true, event.at_ns),
                    EventKind::TunnelDown { peer, .. } => self.note_peer(peer, false, event.at_ns),
                    // Its pair connections went with it.
                    EventKind::WorkerPanicked { worker: 0, .. } => {
                        self.peers.values_mut().for_each(|state| *state = (false, event.at_ns));
                    }
                    EventKind::WorkerPanicked { .. }
                    | EventKind::PathDead { .. }
                    | EventKind::PathAlive { .. }
                    | EventKind::PathGraded { .. }
                    | EventKind::HandleMoved { .. }
                    | EventKind::PeerLost { .. }
                    | EventKind::PeerBack { .. }
                    | EventKind::PeerRefused { .. }
                    | EventKind::RequestDenied(_)
                    | EventKind::ListenerError { .. }
                    | EventKind::IdentityRefused { .. } => {}
                }
                self.upward.events.push(event);
            }
            Report::Flows { request, flows, total } => {
                // A list whose daemon has gone, or that was answered without this worker, is nobody's any more.
                if let Some(listing) = self.listings.iter_mut().find(|listing| listing.request == request) {
                    listing.waiting = listing.waiting.saturating_sub(1);
                    listing.total += total;
                    listing.flows.extend(flows);
                }
            }
            Report::Closed(count) => {
                if let Some(draining) = &mut self.draining {
                    draining.closed += count;
                    if let Some((waiting, _)) = &mut draining.closing {
                        *waiting = waiting.saturating_sub(1);
                    }
                }
            }
        }
    }

    /// New flows are refused while hardly any memory is left. Whoever does not say how much there is has enough.
    fn look_at_memory(&mut self, now: Instant) {
        if now >= self.memory_at {
            self.memory_at = now + MEMORY_EVERY;
            let is_short = &self.shared.is_short_of_memory;
            let was_short = is_short.load(Ordering::Relaxed);
            let memory = memory::look();
            is_short.store(memory.is_some_and(|memory| memory.is_short(was_short)), Ordering::Relaxed);
        }
    }

    fn note_peer(&mut self, peer: &str, connected: bool, at_ns: u64) {
        if let Some(state) = self.peers.get_mut(peer) {
            *state = (connected, at_ns);
        }
    }

    /// Send what waits for the daemon.
    fn tell(&mut self, now: Instant) {
        if self.tell_daemon(now).is_err() {
            self.daemon = None;
        }
    }

    fn tell_daemon(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        if daemon.connection.is_introduced {
            if self.outcomes_at <= now {
                self.outcomes_at = status::next_after(now, self.outcomes_at, OUTCOMES_EVERY);
                let frame = status::outcomes(&self.shared, &mut self.carried_at, now);
                if let Some(frame) = frame {
                    daemon.connection.say(&Up::Outcomes(&frame))?;
                }
            }
            if self.counters_at <= now {
                self.counters_at = status::next_after(now, self.counters_at, COUNTERS_EVERY);
                let dropped = self.upward.dropped();
                let running = now.saturating_duration_since(self.started);
                let frame = status::gather(&self.shared, &self.app_states, &self.peers, running, dropped);
                daemon.connection.say(&Up::Counters(&frame))?;
            }
            self.upward.pump(now, &mut daemon.connection)?;
        }
        daemon.connection.flush()?;
        let wants_room = daemon.connection.waiting() > 0;
        if wants_room != daemon.wants_room {
            daemon.wants_room = wants_room;
            let interest = if wants_room { Interest::READ_WRITE } else { Interest::READ };
            self.epoll.modify(&daemon.connection, daemon.token, interest)?;
        }
        Ok(())
    }

    /// The engine ends: what the daemon should still hear, it gets a moment to take.
    fn say_last_words(&mut self, events: &mut Events) {
        self.take_reports();
        let until = Instant::now() + LAST_WORDS;
        while Instant::now() < until {
            self.tell(Instant::now());
            if self.daemon.as_ref().is_none_or(|daemon| daemon.connection.waiting() == 0) {
                return;
            }
            if self.epoll.wait(events, Some(DRAIN_LOOK_EVERY)).is_err() {
                return;
            }
        }
    }
}
