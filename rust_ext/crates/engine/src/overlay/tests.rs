//! Three overlays on loopback sockets: pair connections, probes, flows over a direct link and through a transit, hellos and re-pointing.
//!
//! Real sockets and real time, so waits are bounded and conditions are polled; what is exact is tested in `proto` and `tunnel`.

use std::net::UdpSocket;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use l4proxy_io::udp::RecvBatch;
use l4proxy_wire::channel::{Datagram, Frame};
use l4proxy_wire::ids::{FlowId, SessionId};
use l4proxy_wire::open::{Open, Protocol};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use super::*;
use crate::policy::Duplication;
use crate::snapshot::{HandleSpec, IncomingLinkSpec, LinkSpec, PathSpec, PeerSpec, Snapshot};

mod copies;
mod nat;
mod rolling;
mod survival;
mod transit;

const NAMES: [&str; 3] = ["ams", "iad", "sin"];
const PATIENCE: Duration = Duration::from_secs(10);

struct Pop {
    overlay: Overlay,
    events: Vec<OverlayEvent>,
    reports: Vec<OverlayReport>,
    frames: Vec<(ChannelKey, Vec<u8>)>,
}

struct World {
    pops: Vec<Pop>,
    addresses: Vec<SocketAddr>,
    states: Vec<OverlayStates>,
    batch: RecvBatch,
    /// Directed links over which nothing passes: their packets are read and thrown away by a socket of nobody.
    cut: Vec<(usize, usize)>,
    copies_bytes_per_s: u64,
    transit_bytes_per_s: u64,
    /// Added to every label.
    relabelled: u32,
    /// Carries what was to go nowhere.
    liar: Option<transit::Liar>,
    /// What PoP 0 sits behind, if anything.
    nat: Option<nat::Nat>,
    nowhere: SocketAddr,
    _nowhere: UdpSocket,
    renewed: Vec<Identity>,
    sockets: Vec<UdpSocket>,
    /// How far the PoPs' clocks are ahead: time that a test did not wait for.
    skipped: Duration,
}

fn link_name(from: usize, to: usize) -> String {
    format!("{}/a>{}/a", NAMES[from], NAMES[to])
}

fn link_id(from: usize, to: usize) -> u32 {
    (from * 10 + to + 100) as u32
}

fn label(from: usize, to: usize) -> u32 {
    (from * 1000 + to + 7000) as u32
}

fn path(pops: &[usize]) -> PathSpec {
    let links: Vec<_> = pops.windows(2).map(|pair| (pair[0], pair[1])).collect();
    PathSpec {
        id: pops.iter().fold(1, |id, pop| id * 10 + *pop as u32 + 1),
        links: links.iter().map(|&(from, to)| link_name(from, to)).collect(),
        first_link: link_id(links[0].0, links[0].1),
        labels: links[1..].iter().map(|&(from, to)| label(from, to)).collect(),
    }
}

impl World {
    fn new() -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let nowhere = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut world = Self {
            pops: Vec::new(),
            addresses: Vec::new(),
            states: Vec::new(),
            batch: RecvBatch::new(16, 65_536),
            cut: Vec::new(),
            copies_bytes_per_s: 1_000_000,
            transit_bytes_per_s: 0,
            relabelled: 0,
            liar: None,
            nat: None,
            nowhere: nowhere.local_addr().unwrap(),
            _nowhere: nowhere,
            renewed: Vec::new(),
            sockets: Vec::new(),
            skipped: Duration::ZERO,
        };
        for (number, name) in NAMES.into_iter().enumerate() {
            let issue = || {
                let key = KeyPair::generate().unwrap();
                let mut leaf = CertificateParams::default();
                leaf.subject_alt_names =
                    vec![SanType::URI(format!("l4proxy://test/{name}").try_into().unwrap())];
                let leaf_pem = leaf.signed_by(&key, &issuer).unwrap().pem();
                let key_pem = key.serialize_pem();
                Identity::from_pem("test", name, ca_pem.as_bytes(), leaf_pem.as_bytes(), key_pem.as_bytes())
                    .unwrap()
                    .with_reset_key(name.as_bytes())
            };
            let identity = issue();
            world.renewed.push(issue());
            let now = Instant::now();
            let shared = Arc::new(OverlayShared::new(now, 1));
            let mut overlay = Overlay::new(now, 0, PopId(number as u32 + 1), [number as u8; 32], shared);
            overlay.set_identity(now, identity).unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            world.sockets.push(socket.try_clone().unwrap());
            overlay.add_socket(address, socket.into()).unwrap();
            world.addresses.push(address);
            world.states.push(OverlayStates::default());
            world.pops.push(Pop { overlay, events: Vec::new(), reports: Vec::new(), frames: Vec::new() });
        }
        world
    }

    /// Give every PoP a snapshot in which its `off` handles have these paths, by (from, to).
    fn apply(&mut self, paths: impl Fn(usize, usize) -> Vec<PathSpec>) {
        for own in 0..NAMES.len() {
            let others: Vec<_> = (0..NAMES.len()).filter(|&other| other != own).collect();
            let mut snapshot = Snapshot {
                pop_id: own as u32 + 1,
                transit_bytes_per_s: self.transit_bytes_per_s,
                ..Snapshot::default()
            };
            for &other in &others {
                let is_cut = self.cut.contains(&(own, other));
                let moves = self.nat.is_some() && other == 0;
                let address = match &self.nat {
                    Some(nat) if own == 0 => nat.inner(other),
                    // Whatever stands there, nobody is there.
                    Some(_) if moves => self.nowhere,
                    _ => self.addresses[other],
                };
                snapshot.peers.push(PeerSpec {
                    name: NAMES[other].into(),
                    id: other as u32 + 1,
                    dial: own < other,
                    adjacent: true,
                    moves,
                });
                snapshot.links.push(LinkSpec {
                    id: link_id(own, other),
                    name: link_name(own, other),
                    peer: NAMES[other].into(),
                    label: label(own, other) + self.relabelled,
                    local: self.addresses[own].to_string(),
                    remote: if is_cut { self.nowhere } else { address }.to_string(),
                    probe_interval_ms: 100,
                    copies_bytes_per_s: self.copies_bytes_per_s,
                    moves,
                });
                snapshot.links_in.push(IncomingLinkSpec {
                    id: link_id(other, own),
                    name: link_name(other, own),
                    peer: NAMES[other].into(),
                    local: self.addresses[own].to_string(),
                    remote: address.to_string(),
                    moves,
                });
                snapshot.handles.push(HandleSpec {
                    id: other as u32,
                    peer: NAMES[other].into(),
                    policy: "off".into(),
                    paths: paths(own, other),
                });
            }
            let tables = OverlayTables::compile(&snapshot, &mut self.states[own]).unwrap();
            let now = self.now();
            self.pops[own].overlay.apply(now, Arc::new(tables));
        }
    }

    fn now(&self) -> Instant {
        Instant::now() + self.skipped
    }

    fn turn(&mut self) {
        let skipped = self.skipped;
        if let Some(nat) = &mut self.nat {
            nat.carry();
        }
        for pop in &mut self.pops {
            let now = Instant::now() + skipped;
            let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + skipped;
            let wall_clock_ns = wall_clock.as_nanos() as u64;
            pop.overlay.handle_readable(now, wall_clock_ns, 0, &mut self.batch).unwrap();
            pop.overlay.handle_timeout(now);
            pop.overlay.pump(now, wall_clock_ns);
            while let Some(event) = pop.overlay.poll_event() {
                pop.events.push(event);
            }
            while let Some(report) = pop.overlay.poll_report() {
                pop.reports.push(report);
            }
            let arena = pop.overlay.take_frames();
            for (channel, frame) in arena.iter() {
                let mut bytes = Vec::new();
                frame.encode(&mut bytes).unwrap();
                pop.frames.push((channel, bytes));
            }
            pop.overlay.give_back(arena);
        }
        if let Some(mut liar) = self.liar.take() {
            liar.carry(self);
            self.liar = Some(liar);
        }
        std::thread::sleep(Duration::from_micros(200));
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}; drops: {:?}", self.drops());
            self.turn();
        }
    }

    fn drops(&self) -> Vec<HashMap<&'static str, u64>> {
        self.pops.iter().map(|pop| pop.overlay.totals().drops).collect()
    }

    fn until_tunnels_are_up(&mut self) {
        let is_up = |pop: &Pop| {
            pop.reports.iter().filter(|report| matches!(report, OverlayReport::TunnelUp { .. })).count() >= 2
        };
        self.until("pair connections", |world| world.pops.iter().all(is_up));
    }

    /// A stream from 0 to `to` through the handle with that number; its two ends.
    fn opened(&mut self, to: usize) -> (StreamKey, StreamKey) {
        self.opened_from(0, to)
    }

    fn opened_from(&mut self, from: usize, to: usize) -> (StreamKey, StreamKey) {
        let open = Open {
            protocol: Protocol::Tcp,
            flow: FlowId(5),
            app: "echo",
            origin: "192.0.2.1:7",
            client: "198.51.100.7:40000".parse().unwrap(),
            listener: "203.0.113.1:7".parse().unwrap(),
            deadline_ms: 1000,
        };
        let now = self.now();
        let sender = self.pops[from].overlay.open_stream(now, to as u32, &open).unwrap();
        self.until("the flow is announced", |world| {
            world.pops[to].events.iter().any(|event| matches!(event, OverlayEvent::StreamIncoming { .. }))
        });
        let receiver = self.pops[to].events.iter().find_map(|event| {
            let OverlayEvent::StreamIncoming { key, open, .. } = event else { return None };
            assert_eq!(open.app, "echo");
            Some(*key)
        });
        let receiver = receiver.unwrap();
        self.pops[to].overlay.accept_stream(receiver);
        (sender, receiver)
    }

    /// Send 1 MB from 0 to `to` over a stream, and as much back.
    fn exchange(&mut self, to: usize) {
        self.exchange_from(0, to);
    }

    fn exchange_from(&mut self, from: usize, to: usize) {
        let (sender, receiver) = self.opened_from(from, to);
        let data: Vec<u8> = (0..1_000_000u32).map(|number| (number * 7 % 251) as u8).collect();
        self.carry(from, sender, to, receiver, &data);
        self.carry(to, receiver, from, sender, &data);
    }

    fn carry(&mut self, from: usize, sender: StreamKey, to: usize, receiver: StreamKey, data: &[u8]) {
        let (mut sent, mut got) = (0, Vec::new());
        let mut buffer = vec![0; 65_536];
        self.until("a megabyte", |world| {
            let now = world.now();
            if sent < data.len()
                && let StreamWrite::Wrote(count) = world.pops[from].overlay.write(now, sender, &data[sent..])
            {
                sent += count;
                if sent == data.len() {
                    world.pops[from].overlay.finish(sender);
                }
            }
            loop {
                match world.pops[to].overlay.read(receiver, &mut buffer) {
                    StreamRead::Data(count) => got.extend_from_slice(&buffer[..count]),
                    StreamRead::Finished => return true,
                    StreamRead::Blocked => return false,
                    ended @ (StreamRead::Reset(_) | StreamRead::Gone) => panic!("{ended:?}"),
                }
            }
        });
        assert!(got == data, "every byte, in order");
    }

    /// Replace the process of a PoP: the same name and sockets, nothing that it knew, and a certificate that was renewed meanwhile. Follow with `apply`.
    fn start_again(&mut self, pop: usize) {
        let now = self.now();
        let shared = Arc::new(OverlayShared::new(now, 1));
        let mut overlay = Overlay::new(now, 0, PopId(pop as u32 + 1), [77; 32], shared);
        overlay.set_identity(now, self.renewed[pop].clone()).unwrap();
        let socket = self.sockets[pop].try_clone().unwrap();
        overlay.add_socket(self.addresses[pop], socket.into()).unwrap();
        self.pops[pop].overlay = overlay;
        self.states[pop] = OverlayStates::default();
    }
}

fn direct(from: usize, to: usize) -> Vec<PathSpec> {
    vec![path(&[from, to])]
}

/// Between 0 and 2 everything passes 1.
fn around(from: usize, to: usize) -> Vec<PathSpec> {
    if from + to == 2 { vec![path(&[from, 1, to])] } else { direct(from, to) }
}

/// Between 0 and 2 there is a direct link, and a way through 1.
fn both(from: usize, to: usize) -> Vec<PathSpec> {
    if from + to == 2 { vec![path(&[from, to]), path(&[from, 1, to])] } else { direct(from, to) }
}

#[test]
fn links_are_measured_once_the_pair_connection_is_up() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();

    world.until("a sample of every link", |world| {
        world.pops.iter().all(|pop| {
            let answered = pop.reports.iter().filter_map(|report| {
                let OverlayReport::Sample(sample) = report else { return None };
                sample.rtt_ns.map(|_| sample.link)
            });
            answered.collect::<std::collections::BTreeSet<_>>().len() == 2
        })
    });
}

#[test]
fn a_stream_carries_both_directions_over_the_direct_link() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();

    world.exchange(2);

    assert_eq!(world.pops[1].overlay.totals().packets_forwarded, 0);
}

#[test]
fn a_stream_carries_both_directions_through_a_transit_that_keeps_nothing() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();
    world.apply(around);

    world.exchange(2);

    let transit = world.pops[1].overlay.totals();
    assert!(transit.bytes_forwarded > 2_000_000, "both directions passed it: {}", transit.bytes_forwarded);
    assert_eq!(transit.drops.get("outer_tag"), None);
    let resent: Vec<_> = world.pops.iter().map(|pop| pop.overlay.totals().packets_resent).collect();
    assert_eq!(resent, [0, 0, 0], "the path was changed on purpose: what was on its way arrives");
}

#[test]
fn frames_cross_a_transit_and_are_answered_on_their_channel() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();
    world.apply(around);

    let big = vec![7; 3_000];
    let frame = Frame::Data { session: SessionId(9), datagram: Datagram { tos: 0x2e, bytes: &big } };
    let wish = Wish { duplication: Duplication::Off, budget: &app_budget() };
    world.pops[0].overlay.send_frame(Instant::now(), 2, &frame, wish).unwrap();
    world.until("the frame", |world| !world.pops[2].frames.is_empty());
    let (channel, bytes) = world.pops[2].frames[0].clone();
    let mut expected = Vec::new();
    frame.encode(&mut expected).unwrap();
    assert_eq!(bytes, expected, "a datagram larger than a packet arrives whole");

    let answer = Frame::SessionUnknown { session: SessionId(9) };
    world.pops[2].overlay.reply_frame(Instant::now(), channel, &answer).unwrap();
    world.until("the answer", |world| !world.pops[0].frames.is_empty());
}

#[test]
fn a_handle_whose_path_goes_silent_is_pointed_to_its_backup_and_its_stream_goes_on() {
    let mut world = World::new();
    world.apply(both);
    world.until_tunnels_are_up();
    world.exchange(2);
    world.pops[0].events.clear();
    world.pops[2].events.clear();
    let settled = Instant::now() + Duration::from_millis(600);
    world.until("hellos have been exchanged", |_| Instant::now() > settled);

    world.cut = vec![(0, 2), (2, 0)];
    world.apply(both);
    world.exchange(2);

    let move_of = |pop: &Pop| {
        pop.reports.iter().find_map(|report| {
            let OverlayReport::HandleMoved { from, to, .. } = report else { return None };
            Some((from.clone(), to.clone()))
        })
    };
    // The stream was served by copies before it was certain.
    world.until("the handle moves", |world| move_of(&world.pops[0]).is_some());
    let moved = move_of(&world.pops[0]);
    let expected = (vec![link_name(0, 2)], vec![link_name(0, 1), link_name(1, 2)]);
    assert_eq!(moved, Some(expected));
    let totals = world.pops[0].overlay.totals();
    assert!(totals.packets_resent > 0, "the dead path has swallowed the beginning");
    assert!(totals.suspicions > 0 && totals.packets_copied > 0, "it was suspect before it was dead");
}

fn drops_of(world: &World, pop: usize, reason: &str) -> u64 {
    world.drops()[pop].get(reason).copied().unwrap_or(0)
}

#[test]
fn a_stranger_is_counted_and_gets_no_answer() {
    let mut world = World::new();
    world.apply(direct);
    world.until_tunnels_are_up();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.set_nonblocking(true).unwrap();
    let initial = [&[0xc3, 0, 0, 0, 1, 8][..], &[1; 1200]].concat();
    for packet in [&initial[..], &[8; 60], &[9; 60], &[10; 60], &[11; 48], &[0; 3], &[]] {
        stranger.send_to(packet, world.addresses[0]).unwrap();
    }

    world.until("all are counted", |world| world.drops()[0].get("stranger") == Some(&7));
    let end = Instant::now() + Duration::from_millis(100);
    world.until("an answer would have come", |_| Instant::now() > end);
    assert!(stranger.recv(&mut [0; 10]).is_err());
}
