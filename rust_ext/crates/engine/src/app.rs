//! One app as the workers see it: where its flows may go, its limits, and what is shared by all its flows on all workers.
//!
//! [`App`] belongs to one snapshot and never changes; [`AppState`] lives on from one snapshot to the next, and as long as a flow does.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ahash::RandomState;
use l4proxy_proto::origin_order::{Host, order};
use l4proxy_proto::rate::SharedBucket;
use l4proxy_proto::sessions::sources::{Source, SourceCounts};

use crate::admission::rates::NewFlows;
use crate::counters::{AppCounters, AppValue, Dropped};
use crate::edge::reach::Reach;
use crate::overlay::{Wish, app_budget};
use crate::policy::Policy;
use crate::snapshot::Protocol;
use crate::tls::TlsKept;

/// Locks over the sources of one app: new flows on different workers seldom want the same one.
const SOURCE_SHARDS: usize = 16;

/// One app of one snapshot.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) state: Arc<AppState>,
    /// Where clients of the fleet may come to: the rule for origin ports.
    pub(crate) all_listens: Vec<Listen>,
    pub(crate) origins: Vec<Origin>,
    pub(crate) tcp: Vec<Candidate>,
    pub(crate) udp: Vec<Candidate>,
    pub(crate) idle_tcp: Duration,
    pub(crate) idle_udp: Duration,
    pub(crate) half_closed: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) admits_egress: bool,
    pub(crate) policy: Policy,
    /// From which addresses origins are dialled, and to which names may lead.
    pub(crate) reach: Reach,
}

/// A range of ports that clients may come to.
#[derive(Debug, Clone)]
pub(crate) struct Listen {
    pub(crate) protocol: Protocol,
    /// Unspecified: all addresses, of both families.
    pub(crate) address: IpAddr,
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl Listen {
    /// Whether the port is one of the range, whatever the address.
    pub(crate) fn has_port(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first..=self.last).contains(&port)
    }

    fn has(&self, protocol: Protocol, listener: SocketAddr) -> bool {
        self.has_port(protocol, listener.port())
            && (self.address.is_unspecified() || self.address == listener.ip())
    }
}

/// One origin.
#[derive(Debug)]
pub(crate) struct Origin {
    /// As written in the app file.
    pub(crate) name: String,
    /// A name stands there: what it leads to is checked when it is dialled.
    pub(crate) is_name: bool,
    /// Where it may be dialled; none: the name has no answer.
    pub(crate) hosts: Vec<Host>,
}

/// One way for a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) origin: usize,
    /// None: dialled here.
    pub(crate) handle: Option<u32>,
    /// It failed of late: one flow in some tries it first.
    pub(crate) is_on_trial: bool,
}

impl Candidate {
    /// One that nothing is held against.
    #[cfg(test)]
    pub(crate) const fn new(origin: usize, handle: Option<u32>) -> Self {
        Self { origin, handle, is_on_trial: false }
    }
}

impl App {
    /// The candidates of a protocol, best first.
    pub(crate) fn candidates(&self, protocol: Protocol) -> &[Candidate] {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    /// Which of its datagrams are to go over two paths.
    pub(crate) fn duplication(&self) -> Wish<'_> {
        Wish { duplication: self.policy.duplication, budget: &self.state.copies }
    }

    /// How far into its range of ports `listener` lies; None: the app does not listen there.
    pub(crate) fn offset(&self, protocol: Protocol, listener: SocketAddr) -> Option<u16> {
        let listen = self.all_listens.iter().find(|listen| listen.has(protocol, listener))?;
        Some(listener.port() - listen.first)
    }

    /// Addresses of an origin in the order of one flow, `max` at most, for a client that came to `listener`.
    ///
    /// A target without a port gets the listener's; with one, a range keeps its offset. One that would pass 65535 is left out: a name
    /// may lead anywhere.
    pub(crate) fn addresses(
        &self,
        origin: usize,
        protocol: Protocol,
        listener: SocketAddr,
        random: u64,
        max: usize,
    ) -> impl Iterator<Item = SocketAddr> + use<> {
        let offset = self.offset(protocol, listener);
        let targets = order(&self.origins[origin].hosts, random, max);
        targets.into_iter().filter_map(move |target| {
            let port = match target.port {
                None => listener.port(),
                Some(port) => port.checked_add(offset?)?,
            };
            offset.map(|_| SocketAddr::new(target.ip, port))
        })
    }
}

/// What outlives a snapshot.
#[derive(Debug)]
pub(crate) struct AppState {
    pub(crate) counters: AppCounters,
    flows: AtomicU32,
    sources: [Mutex<SourceCounts>; SOURCE_SHARDS],
    pub(crate) new_flows: NewFlows,
    pub(crate) tls: TlsKept,
    /// For datagrams that go over two paths.
    pub(crate) copies: SharedBucket,
}

impl AppState {
    /// No flows. The hasher is keyed with something that clients cannot know.
    pub(crate) fn new(workers: usize, hasher: &RandomState) -> Self {
        Self {
            counters: AppCounters::new(workers),
            flows: AtomicU32::new(0),
            sources: std::array::from_fn(|_| Mutex::new(SourceCounts::new(hasher.clone()))),
            new_flows: NewFlows::new(hasher),
            tls: TlsKept::default(),
            copies: app_budget(),
        }
    }

    /// Live flows at this PoP, all workers.
    pub(crate) fn flows(&self) -> u32 {
        self.flows.load(Ordering::Relaxed)
    }

    fn shard(&self, source: Source) -> &Mutex<SourceCounts> {
        // The highest bits differ.
        let spread = (source.spread() >> 32) as usize;
        &self.sources[spread % SOURCE_SHARDS]
    }

    /// Count `source` once more, unless it has as many as it may.
    fn acquire_source(&self, source: Source, max: u32) -> bool {
        self.shard(source).lock().unwrap_or_else(PoisonError::into_inner).acquire(source, max)
    }
}

/// The right of one flow to exist, within the app's limits. Dropping it gives the place back and counts the flow as closed, also
/// when a worker panics.
#[derive(Debug)]
pub(crate) struct Permit {
    state: Arc<AppState>,
    source: Option<Source>,
    /// The worker of the flow that began, and what its end is counted as.
    opened: Option<(usize, AppValue)>,
}

impl Permit {
    /// A place for a flow of a client that came here.
    pub(crate) fn for_client(app: &App, client: IpAddr) -> Result<Self, Dropped> {
        let mut permit = Self::for_peer(app)?;
        let source = Source::of(client, app.policy.limits.source_prefix_v6);
        if !app.state.acquire_source(source, app.policy.limits.flows_per_source) {
            return Err(Dropped::SourceFlowsFull);
        }
        permit.source = Some(source);
        Ok(permit)
    }

    /// A place for a flow that came from another PoP: that one has looked at the client's budget.
    pub(crate) fn for_peer(app: &App) -> Result<Self, Dropped> {
        let state = app.state.clone();
        if state.flows.fetch_add(1, Ordering::Relaxed) >= app.policy.limits.flows {
            state.flows.fetch_sub(1, Ordering::Relaxed);
            return Err(Dropped::AppFlowsFull);
        }
        Ok(Self { state, source: None, opened: None })
    }

    /// The flow begins, on this worker and not on another.
    pub(crate) fn on_opened(&mut self, worker: usize, protocol: Protocol) {
        let (opened, closed) = match protocol {
            Protocol::Tcp => (AppValue::TcpOpened, AppValue::TcpClosed),
            Protocol::Udp => (AppValue::UdpOpened, AppValue::UdpClosed),
        };
        self.state.counters.add(worker, opened, 1);
        self.opened = Some((worker, closed));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.state.flows.fetch_sub(1, Ordering::Relaxed);
        if let Some((worker, closed)) = self.opened {
            // A flow lives and dies on its worker's thread, so the cell has one writer.
            self.state.counters.add(worker, closed, 1);
        }
        if let Some(source) = self.source {
            self.state.shard(source).lock().unwrap_or_else(PoisonError::into_inner).release(source);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use l4proxy_proto::origin_order::Target;

    use super::*;
    use crate::policy::Limits;

    impl Origin {
        /// An origin of one host that has these addresses.
        pub(crate) fn at(name: &str, addresses: &[&str], port: Option<u16>) -> Self {
            let target = |text: &&str| Target { ip: text.parse().unwrap(), port };
            let targets = addresses.iter().map(target).collect();
            let host = Host { priority: 0, weight: 0, targets };
            Self { name: name.into(), is_name: false, hosts: vec![host] }
        }
    }

    /// An app `game` that listens on `udp/::` 1000–1009 and `tcp/192.0.2.1` 80, with two flows at most, one per source.
    pub(crate) fn game() -> App {
        let listen = |protocol, address: &str, first, last| Listen {
            protocol,
            address: address.parse().unwrap(),
            first,
            last,
        };
        App {
            name: "game".into(),
            state: Arc::new(AppState::new(1, &RandomState::with_seeds(1, 2, 3, 4))),
            all_listens: vec![
                listen(Protocol::Udp, "::", 1000, 1009),
                listen(Protocol::Tcp, "192.0.2.1", 80, 80),
            ],
            origins: vec![
                Origin::at("o", &["203.0.113.1"], None),
                Origin::at("o:7000", &["203.0.113.1"], Some(7000)),
                Origin::at("o:65530", &["203.0.113.1"], Some(65_530)),
            ],
            tcp: vec![],
            udp: vec![],
            idle_tcp: Duration::from_secs(3600),
            idle_udp: Duration::from_secs(120),
            half_closed: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            admits_egress: true,
            policy: Policy {
                limits: Limits { flows: 2, flows_per_source: 1, ..Limits::default() },
                ..Policy::default()
            },
            reach: Reach::default(),
        }
    }

    #[test]
    fn the_origins_port_follows_the_listeners() {
        let app = game();
        let port = |origin, protocol, listener: &str| {
            let mut found = app.addresses(origin, protocol, listener.parse().unwrap(), 0, 1);
            found.next().map(|address| address.port())
        };
        assert_eq!(port(0, Protocol::Udp, "198.51.100.9:1004"), Some(1004));
        assert_eq!(port(1, Protocol::Udp, "[2001:db8::1]:1004"), Some(7004));
        assert_eq!(port(1, Protocol::Tcp, "192.0.2.1:80"), Some(7000));
        assert_eq!(port(2, Protocol::Udp, "192.0.2.1:1005"), Some(65_535));
    }

    #[test]
    fn a_listener_that_the_app_has_not_reaches_no_origin() {
        let app = game();
        for (protocol, listener) in [
            (Protocol::Udp, "192.0.2.1:1010"),
            (Protocol::Udp, "192.0.2.1:999"),
            (Protocol::Tcp, "192.0.2.1:1004"),
            (Protocol::Tcp, "192.0.2.2:80"),
        ] {
            let listener = listener.parse().unwrap();
            assert_eq!(app.offset(protocol, listener), None, "{listener}");
            assert_eq!(app.addresses(0, protocol, listener, 0, 1).count(), 0, "{listener}");
        }
        // Of an address such an offset is refused with the snapshot; what a name leads to is left out.
        let listener = "192.0.2.1:1006".parse().unwrap();
        assert_eq!(app.addresses(2, Protocol::Udp, listener, 0, 1).count(), 0);
    }

    #[test]
    fn an_ipv6_client_is_the_network_that_the_app_says() {
        let clients = ["2001:db8:0:100::1", "2001:db8:0:1ff::1"].map(|text| text.parse().unwrap());
        for (source_prefix_v6, is_one) in [(56, true), (64, false), (128, false)] {
            let mut app = game();
            app.policy.limits.source_prefix_v6 = source_prefix_v6;
            let [first, second] = clients.map(|client| Permit::for_client(&app, client));
            assert!(first.is_ok());
            assert_eq!(second.err() == Some(Dropped::SourceFlowsFull), is_one, "/{source_prefix_v6}");
        }
    }

    #[test]
    fn places_are_limited_by_app_and_by_source_and_come_back() {
        let app = game();
        let client = |last: u8| IpAddr::from([192, 0, 2, last]);
        let mut first = Permit::for_client(&app, client(1)).unwrap();
        first.on_opened(0, Protocol::Udp);
        assert_eq!(Permit::for_client(&app, client(1)).unwrap_err(), Dropped::SourceFlowsFull);
        let second = Permit::for_client(&app, client(2)).unwrap();
        assert_eq!(Permit::for_client(&app, client(3)).unwrap_err(), Dropped::AppFlowsFull);
        assert_eq!(app.state.flows(), 2);
        let udp = |value| app.state.counters.sum(value);
        assert_eq!((udp(AppValue::UdpOpened), udp(AppValue::UdpClosed)), (1, 0));
        drop(first);
        assert_eq!((udp(AppValue::UdpOpened), udp(AppValue::UdpClosed)), (1, 1));
        let third = Permit::for_client(&app, client(1)).unwrap();
        drop((second, third));
        assert_eq!(app.state.flows(), 0);
        assert!(app.state.sources.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }
}
