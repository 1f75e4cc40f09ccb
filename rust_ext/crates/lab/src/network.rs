//! Many links and one schedule of packets under way. Pure: `handle_packet` and `send` in, `poll_delivery` out.
//!
//! After every input, drain `poll_delivery` until it gives nothing; then nothing happens before `next_due_ns`:
//!
//! ```
//! use l4proxy_lab::link::LinkProperties;
//! use l4proxy_lab::network::{LinkConfig, Network, NetworkConfig};
//!
//! let link = LinkConfig {
//!     name: "ams>sin".into(), from_host: 0, to_host: 1, pairs: vec![],
//!     properties: LinkProperties { delay_ns: 90_000_000, ..Default::default() },
//! };
//! let mut network = Network::new(NetworkConfig { hosts: 2, links: vec![link], ..Default::default() }).unwrap();
//! network.send(1_000, 0, b"hello");
//! assert!(network.poll_delivery(1_000).is_none());
//! assert_eq!(network.next_due_ns(), Some(90_001_000));
//! assert_eq!(&*network.poll_delivery(90_001_000).unwrap().packet, b"hello");
//! ```

use crate::error::LabError;
use crate::link::{Link, LinkCounters, LinkProperties, Verdict};
use crate::packet::Endpoints;
use crate::random::Random;
use hashbrown::HashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

/// Most hosts of one network; each has a device that is polled.
pub const MAX_HOSTS: usize = 256;

/// Most links of one network: every pair of [`MAX_HOSTS`], in both directions.
pub const MAX_LINKS: usize = MAX_HOSTS * (MAX_HOSTS - 1);

/// Bytes of packets under way, unless told otherwise: 1 Gbit/s over a second of delay.
pub const DEFAULT_MAX_BYTES: usize = 128 << 20;

/// What a packet under way costs beside its bytes: its entry in the schedule and the allocator's share.
const PACKET_OVERHEAD: usize = 80;

/// One directed link.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Unique name, `ams/a>iad/b`.
    pub name: String,
    /// Index of the host whose packets it takes.
    pub from_host: usize,
    /// Index of the host it leads to.
    pub to_host: usize,
    /// The (source, destination) addresses that mean this link.
    pub pairs: Vec<(IpAddr, IpAddr)>,
    /// How it behaves at first.
    pub properties: LinkProperties,
}

/// A whole network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Number of hosts; links name them by index.
    pub hosts: usize,
    /// Every link.
    pub links: Vec<LinkConfig>,
    /// Same seed and same packets at the same times: same losses and delays.
    pub seed: u64,
    /// Bound on the memory of packets under way, bytes.
    pub max_bytes: usize,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { hosts: 0, links: Vec::new(), seed: 1, max_bytes: DEFAULT_MAX_BYTES }
    }
}

/// Packets that no link counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkCounters {
    /// Neither IPv4 nor IPv6, or too short.
    pub not_ip: u64,
    /// No link joins these two addresses.
    pub unknown_destination: u64,
    /// A link does, but not from the host that sent it.
    pub wrong_host: u64,
    /// IPv6 multicast and link-local, IPv4 broadcast and multicast: the chatter of every host; a WAN does not carry it.
    pub not_routable: u64,
}

/// A packet that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The link it came over.
    pub link: usize,
    /// The host it is for.
    pub host: usize,
    /// When it should have arrived, ns; at most the `now_ns` of the call.
    pub due_ns: u64,
    /// The packet.
    pub packet: Box<[u8]>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled {
    due_ns: u64,
    /// Breaks ties in the order of sending, so that equal times do not reorder.
    order: u64,
    link: usize,
    /// The link's life when it was sent.
    life: u32,
    packet: Box<[u8]>,
}

/// The network. See the module.
#[derive(Debug)]
pub struct Network {
    hosts: usize,
    links: Vec<Link>,
    pairs: HashMap<Endpoints, usize, ahash::RandomState>,
    schedule: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    queued_bytes: usize,
    peak_bytes: usize,
    max_bytes: usize,
    counters: NetworkCounters,
}

impl Network {
    /// Makes a network in which nothing is under way.
    ///
    /// # Errors
    /// A property that cannot be had, a host that is not there, or two links for one pair of addresses or of one name.
    pub fn new(config: NetworkConfig) -> Result<Self, LabError> {
        for (what, count, max) in
            [("hosts", config.hosts, MAX_HOSTS), ("links", config.links.len(), MAX_LINKS)]
        {
            if count > max {
                return Err(LabError::TooMany { what, count, max });
            }
        }
        let mut network = Self {
            hosts: config.hosts,
            links: Vec::with_capacity(config.links.len()),
            // Looked up only, never walked: the random hasher does not show.
            pairs: HashMap::default(),
            schedule: BinaryHeap::new(),
            order: 0,
            queued_bytes: 0,
            peak_bytes: 0,
            max_bytes: config.max_bytes,
            counters: NetworkCounters::default(),
        };
        for (index, link) in config.links.into_iter().enumerate() {
            network.add(link, Random::new(config.seed, index as u64))?;
        }
        Ok(network)
    }

    fn add(&mut self, config: LinkConfig, random: Random) -> Result<(), LabError> {
        config.properties.validate()?;
        for host in [config.from_host, config.to_host] {
            if host >= self.hosts {
                return Err(LabError::NoHost { link: config.name, host });
            }
        }
        if self.links.iter().any(|link| link.name == config.name) {
            return Err(LabError::SameName { name: config.name });
        }
        let index = self.links.len();
        for (source, destination) in config.pairs {
            if let Some(first) = self.pairs.insert(Endpoints { source, destination }, index) {
                let first =
                    self.links.get(first).map_or_else(|| config.name.clone(), |link| link.name.clone());
                return Err(LabError::SamePair {
                    first,
                    second: config.name,
                    source_address: source,
                    destination_address: destination,
                });
            }
        }
        self.links.push(Link::new(config.name, config.from_host, config.to_host, config.properties, random));
        Ok(())
    }

    /// Takes an IP packet that `host` sent. What cannot go anywhere is counted and dropped.
    pub fn handle_packet(&mut self, now_ns: u64, host: usize, packet: &[u8]) {
        let Some(endpoints) = Endpoints::of(packet) else {
            self.counters.not_ip += 1;
            return;
        };
        match self.pairs.get(&endpoints) {
            Some(&link) if self.links[link].from_host == host => self.send(now_ns, link, packet),
            Some(_) => self.counters.wrong_host += 1,
            None if is_local(endpoints.destination) => self.counters.not_routable += 1,
            None => self.counters.unknown_destination += 1,
        }
    }

    /// Sends any bytes over the link number `link`. Panics if there is no such link.
    pub fn send(&mut self, now_ns: u64, link: usize, packet: &[u8]) {
        let Verdict::Due(due_ns) = self.links[link].admit(now_ns, packet.len()) else {
            return;
        };
        let cost = packet.len() + PACKET_OVERHEAD;
        if self.queued_bytes + cost > self.max_bytes {
            self.links[link].counters.dropped_memory += 1;
            return;
        }
        self.queued_bytes += cost;
        self.peak_bytes = self.peak_bytes.max(self.queued_bytes);
        self.order += 1;
        let life = self.links[link].life;
        self.schedule.push(Reverse(Scheduled {
            due_ns,
            order: self.order,
            link,
            life,
            packet: packet.into(),
        }));
    }

    /// Gives the next packet that has arrived by `now_ns`, in order of arrival. Packets of a link that was cut meanwhile are counted and dropped.
    pub fn poll_delivery(&mut self, now_ns: u64) -> Option<Delivery> {
        while self.schedule.peek().is_some_and(|Reverse(first)| first.due_ns <= now_ns) {
            let Some(Reverse(Scheduled { due_ns, link, life, packet, .. })) = self.schedule.pop() else {
                break;
            };
            self.queued_bytes -= packet.len() + PACKET_OVERHEAD;
            let state = &mut self.links[link];
            if state.life != life {
                state.counters.dropped_cut += 1;
                continue;
            }
            state.counters.delivered += 1;
            state.counters.delivered_bytes += packet.len() as u64;
            return Some(Delivery { link, host: state.to_host, due_ns, packet });
        }
        None
    }

    /// Notes that the device of a delivery's host refused the packet.
    pub fn on_device_refused(&mut self, delivery: &Delivery) {
        let counters = &mut self.links[delivery.link].counters;
        counters.delivered -= 1;
        counters.delivered_bytes -= delivery.packet.len() as u64;
        counters.dropped_device += 1;
    }

    /// When the next packet arrives, ns; `None` when nothing is under way.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        self.schedule.peek().map(|Reverse(first)| first.due_ns)
    }

    /// Replaces the properties of the link called `name`; packets under way keep their times, unless it is cut.
    ///
    /// # Errors
    /// No such link, or a property that cannot be had; then nothing changes.
    pub fn set(&mut self, name: &str, properties: LinkProperties) -> Result<(), LabError> {
        properties.validate()?;
        self.find_mut(name)?.set(properties);
        Ok(())
    }

    /// The properties of the link called `name`.
    ///
    /// # Errors
    /// No such link.
    pub fn properties(&self, name: &str) -> Result<&LinkProperties, LabError> {
        let link = self.links.iter().find(|link| link.name == name);
        link.map(|link| &link.properties).ok_or_else(|| LabError::NoLink { name: name.into() })
    }

    /// Every link's name and counters, in the order of the configuration.
    pub fn link_counters(&self) -> impl Iterator<Item = (&str, &LinkCounters)> {
        self.links.iter().map(|link| (link.name.as_str(), &link.counters))
    }

    /// Packets that no link counts.
    #[must_use]
    pub fn counters(&self) -> NetworkCounters {
        self.counters
    }

    /// Number of packets under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.schedule.len()
    }

    /// Largest memory of packets under way so far, bytes.
    #[must_use]
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    fn find_mut(&mut self, name: &str) -> Result<&mut Link, LabError> {
        let link = self.links.iter_mut().find(|link| link.name == name);
        link.ok_or_else(|| LabError::NoLink { name: name.into() })
    }
}

fn is_local(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast() || address.is_link_local(),
        IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
    }
}
