//! The shell: one thread that joins a [`Network`] to the devices of its hosts. It owns the clock; it decides nothing about packets.

use crate::device::{Device, DeviceConfig, Received};
use crate::error::LabError;
use crate::lateness::{Lateness, LatenessSummary};
use crate::link::{LinkCounters, LinkProperties};
use crate::network::{Network, NetworkConfig, NetworkCounters};
use l4proxy_io::epoll::{Epoll, Events, Interest, Waker};
use l4proxy_io::threads;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Packets read from one device before the others have their turn.
const READ_BATCH: u64 = 64;

/// Packets handed over before devices are read again. Reading late makes every later packet late.
const DELIVERY_BATCH: u64 = 256;

/// Under load a turn begins at most this often, so that packets share a wake-up, which costs more than they do.
/// An arrival is noted this much late at worst: a thousandth of a WAN's delay.
const TURN: Duration = Duration::from_micros(100);

/// Load begins with so many packets in [`LOAD_WINDOW_NS`]: below, each packet has its own wake-up.
const LOAD_PACKETS: u64 = 20;

/// How often the load is looked at.
const LOAD_WINDOW_NS: u64 = 2_000_000;

/// Before a packet is due, a precise emulator stops sleeping this early and spins: more than a timer is usually late.
const SPIN: Duration = Duration::from_micros(100);

/// How often the kernel is asked what it had to drop: a call a device, so not every turn.
const OVERRUN_INTERVAL_NS: u64 = 250_000_000;

/// Room for the largest packet a device gives.
const BUFFER_BYTES: usize = 65_536;

/// The waker's token; devices have their host's index.
const WAKE: u64 = u64::MAX;

/// What an emulator is made of.
#[derive(Debug)]
pub struct EmulatorConfig {
    /// Device of each host; links name hosts by their index here.
    pub devices: Vec<DeviceConfig>,
    /// Links, seed and memory bound. `hosts` is set from `devices`.
    pub network: NetworkConfig,
    /// Spin for the last 100 µs before a packet is due: a tenth of the lateness, for up to a whole core.
    pub precise: bool,
}

/// A running emulator. Dropping it stops it.
#[derive(Debug)]
pub struct Emulator {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Everything that an emulator counts.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Whether the thread runs: it does until it is stopped, or a bug ends it.
    pub running: bool,
    /// Each link's name and counters.
    pub links: Vec<(String, LinkCounters)>,
    /// Packets that no link counts.
    pub network: NetworkCounters,
    /// Packets under way.
    pub under_way: usize,
    /// Largest memory of packets under way so far, bytes.
    pub peak_bytes: usize,
    /// Lateness since the last reset.
    pub lateness: LatenessSummary,
    /// Devices that failed for good, such as those of a namespace that is gone.
    pub lost_devices: u64,
    /// Packets that were dropped before the emulator saw them, because it did not read a veth end in time. TUN devices count theirs in the hosts.
    pub overruns: u64,
}

#[derive(Debug)]
struct Shared {
    /// Held for microseconds: by the thread for each batch, by commands for a change or a copy of the counters.
    state: Mutex<State>,
    waker: Waker,
    stop: AtomicBool,
    lost_devices: AtomicU64,
    overruns: AtomicU64,
}

#[derive(Debug)]
struct State {
    network: Network,
    lateness: Lateness,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held can only have been ours and has ended the thread; counters can still be read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Emulator {
    /// Opens every device and starts the thread.
    ///
    /// # Errors
    /// A device or thread that the kernel refuses, or a network that cannot be.
    pub fn start(config: EmulatorConfig) -> Result<Self, LabError> {
        let network = Network::new(NetworkConfig { hosts: config.devices.len(), ..config.network })?;
        let devices = config.devices.iter().map(Device::open).collect::<Result<Vec<_>, _>>()?;
        let system = |doing| move |source| LabError::System { doing, source };
        let waker = Waker::new().map_err(system("making a waker"))?;
        let epoll = Epoll::new().map_err(system("making an epoll instance"))?;
        epoll.add(&waker, WAKE, Interest::READ).map_err(system("watching the waker"))?;
        for (host, device) in devices.iter().enumerate() {
            epoll.add(device, host as u64, Interest::READ).map_err(system("watching a device"))?;
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State { network, lateness: Lateness::default() }),
            waker,
            stop: AtomicBool::new(false),
            lost_devices: AtomicU64::new(0),
            overruns: AtomicU64::new(0),
        });
        let turn = Turn {
            shared: Arc::clone(&shared),
            epoll,
            devices,
            started: Instant::now(),
            precise: config.precise,
        };
        let thread = std::thread::Builder::new()
            .name("l4lab-wan".into())
            .spawn(move || turn.run())
            .map_err(system("starting the emulator's thread"))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Replaces the properties of the link called `name`.
    ///
    /// # Errors
    /// No such link, or a property that cannot be had; then nothing changes.
    pub fn set(&self, name: &str, properties: LinkProperties) -> Result<(), LabError> {
        self.shared.lock().network.set(name, properties)
    }

    /// The properties of the link called `name`.
    ///
    /// # Errors
    /// No such link.
    pub fn properties(&self, name: &str) -> Result<LinkProperties, LabError> {
        self.shared.lock().network.properties(name).cloned()
    }

    /// Everything counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.shared.lock();
        let links = state.network.link_counters().map(|(name, counters)| (name.to_owned(), *counters));
        Stats {
            running: self.thread().as_ref().is_some_and(|thread| !thread.is_finished()),
            links: links.collect(),
            network: state.network.counters(),
            under_way: state.network.under_way(),
            peak_bytes: state.network.peak_bytes(),
            lateness: state.lateness.summary(),
            lost_devices: self.shared.lost_devices.load(Ordering::Relaxed),
            overruns: self.shared.overruns.load(Ordering::Relaxed),
        }
    }

    /// Begins a new measurement of lateness.
    pub fn reset_lateness(&self) {
        self.shared.lock().lateness.reset();
    }

    /// Stops the thread and closes the devices; TUN devices vanish with that. Stopping twice is fine.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // The thread looks at the flag after every wait; if waking fails it does so at the next packet.
        let _ = self.shared.waker.wake();
        let thread = self.thread().take();
        if let Some(thread) = thread {
            // A panic was reported where it happened; what is left to do is to be stopped.
            let _ = thread.join();
        }
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How much there was to do lately.
#[derive(Debug, Default)]
struct Load {
    /// When the last turn began.
    turn_ns: u64,
    window_ns: u64,
    packets: u64,
    is_high: bool,
}

impl Load {
    fn look(&mut self, now_ns: u64) {
        if now_ns - self.window_ns >= LOAD_WINDOW_NS {
            // A window that was stretched by an idle wait does not count as loaded for its length.
            let windows = (now_ns - self.window_ns) / LOAD_WINDOW_NS;
            self.is_high = self.packets / windows >= LOAD_PACKETS;
            (self.window_ns, self.packets) = (now_ns, 0);
        }
    }
}

/// What the thread owns.
struct Turn {
    shared: Arc<Shared>,
    epoll: Epoll,
    devices: Vec<Device>,
    started: Instant,
    precise: bool,
}

impl Turn {
    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn run(mut self) {
        // The process' signals belong to its main thread. If this fails they may interrupt a wait, which is harmless.
        let _ = threads::block_all_signals();
        let mut events = Events::with_capacity(self.devices.len() + 1);
        let mut buffer = vec![0; BUFFER_BYTES];
        let (mut counted_ns, mut load) = (0, Load::default());
        while !self.shared.stop.load(Ordering::Relaxed) {
            if load.is_high && !self.precise {
                std::thread::sleep(TURN.saturating_sub(Duration::from_nanos(self.now_ns() - load.turn_ns)));
            }
            self.wait(&mut events);
            load.turn_ns = self.now_ns();
            if self.now_ns() - counted_ns > OVERRUN_INTERVAL_NS {
                counted_ns = self.now_ns();
                let overruns = self.devices.iter().map(Device::take_overruns).sum();
                self.shared.overruns.fetch_add(overruns, Ordering::Relaxed);
            }
            for event in events.iter() {
                if event.token == WAKE {
                    let _ = self.shared.waker.reset();
                } else {
                    load.packets += self.read(event.token as usize, &mut buffer);
                }
            }
            load.packets += self.deliver();
            load.look(self.now_ns());
        }
    }

    /// Sleeps until a device has something or a packet is due.
    fn wait(&self, events: &mut Events) {
        let due_ns = self.shared.lock().network.next_due_ns();
        let left = due_ns.map(|due| Duration::from_nanos(due.saturating_sub(self.now_ns())));
        let asleep = if self.precise { left.map(|left| left.saturating_sub(SPIN)) } else { left };
        // A wait that fails gives no events; the next turn tries again.
        let woken = self.epoll.wait(events, asleep).unwrap_or(0);
        if self.precise && woken == 0 {
            while due_ns
                .is_some_and(|due| self.now_ns() < due && due - self.now_ns() <= SPIN.as_nanos() as u64)
            {
                std::hint::spin_loop();
            }
        }
    }

    /// Takes what a host sends; returns how many packets.
    fn read(&mut self, host: usize, buffer: &mut [u8]) -> u64 {
        let mut state = self.shared.lock();
        for count in 0..READ_BATCH {
            match self.devices[host].receive(buffer) {
                Received::Packet(length) => {
                    let now_ns = self.started.elapsed().as_nanos() as u64;
                    state.network.handle_packet(now_ns, host, &buffer[..length]);
                }
                Received::Nothing => return count,
                Received::Lost => {
                    drop(state);
                    self.forget(host);
                    return count;
                }
            }
        }
        READ_BATCH
    }

    /// Stops watching a device that only fails: else the loop would spin on it.
    fn forget(&self, host: usize) {
        let _ = self.epoll.remove(&self.devices[host]);
        self.shared.lost_devices.fetch_add(1, Ordering::Relaxed);
    }

    /// Hands over what is due; returns how many packets.
    fn deliver(&mut self) -> u64 {
        let mut state = self.shared.lock();
        for count in 0..DELIVERY_BATCH {
            let now_ns = self.started.elapsed().as_nanos() as u64;
            let Some(delivery) = state.network.poll_delivery(now_ns) else {
                return count;
            };
            state.lateness.on_delivery(delivery.due_ns, now_ns);
            if !self.devices[delivery.host].send(&delivery.packet) {
                state.network.on_device_refused(&delivery);
            }
        }
        DELIVERY_BATCH
    }
}

#[cfg(test)]
mod tests {
    use super::{LOAD_PACKETS, LOAD_WINDOW_NS, Load};

    #[test]
    fn load_is_packets_for_each_window_and_an_idle_wait_ends_it() {
        let mut load = Load { packets: LOAD_PACKETS, ..Default::default() };
        load.look(LOAD_WINDOW_NS - 1);
        assert!(!load.is_high, "the window is not over");
        load.look(LOAD_WINDOW_NS);
        assert!(load.is_high);
        load.packets = LOAD_PACKETS;
        load.look(LOAD_WINDOW_NS * 11);
        assert!(!load.is_high, "as many packets in ten windows are no load");
    }
}
