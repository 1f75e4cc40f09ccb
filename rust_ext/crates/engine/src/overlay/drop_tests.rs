//! Each reason for which docs/protocol.md has a packet dropped, provoked at the socket of one PoP: one row each, and the row provokes nothing
//! else. Those that need an established channel have their rows in `tunnel`.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use l4proxy_io::udp::RecvBatch;
use l4proxy_wire::DropReason;
use l4proxy_wire::hello::{Hello, Reports};
use l4proxy_wire::ids::{Label, LinkId};
use l4proxy_wire::keys::{Epoch, PAIR_EXPORTER_LENGTH, PairKeys, Side};
use l4proxy_wire::link_down::LinkDown;
use l4proxy_wire::outer::{Labels, OuterHeader};
use l4proxy_wire::probe::{Probe, ProbeReply, ProbeRequest};

use super::*;
use crate::snapshot::{IncomingLinkSpec, LinkSpec, PeerSpec, Snapshot};

const OWN: PopId = PopId(1);
const PEER: PopId = PopId(2);
const EXPORTED: [u8; PAIR_EXPORTER_LENGTH] = [7; PAIR_EXPORTER_LENGTH];
const OUTGOING: u32 = 12;
const INCOMING: u32 = 21;
const WALL_NS: u64 = 1_700_000_000_000_000_000;

/// One PoP with a real socket, and a neighbour that is a socket and a set of keys.
struct Bench {
    overlay: Overlay,
    own: SocketAddr,
    peer: UdpSocket,
    keys: PairKeys,
    now: Instant,
    /// Since the beginning, on the wall clock as well.
    passed: Duration,
    batch: RecvBatch,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let shared = Arc::new(OverlayShared::new(now, 1));
        for may_send in [false, true] {
            shared.insert_keys(PEER, PairKeys::from_exported(&EXPORTED, Side::Server), may_send, false);
        }
        let mut overlay = Overlay::new(now, 0, OWN, [1; 32], shared);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = socket.local_addr().unwrap();
        overlay.add_socket(own, socket.into()).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (local, remote) = (own.to_string(), peer.local_addr().unwrap().to_string());
        let snapshot = Snapshot {
            pop_id: 1,
            peers: vec![PeerSpec { name: "iad".into(), id: 2, dial: false, adjacent: true, moves: false }],
            links: vec![LinkSpec {
                moves: false,
                id: OUTGOING,
                name: "ams/a>iad/a".into(),
                peer: "iad".into(),
                label: 70,
                local: local.clone(),
                remote: remote.clone(),
                probe_interval_ms: 100,
                copies_bytes_per_s: 0,
            }],
            links_in: vec![IncomingLinkSpec {
                moves: false,
                id: INCOMING,
                name: "iad/a>ams/a".into(),
                peer: "iad".into(),
                local,
                remote,
            }],
            ..Snapshot::default()
        };
        let tables = OverlayTables::compile(&snapshot, &mut OverlayStates::default()).unwrap();
        overlay.apply(now, Arc::new(tables));
        let keys = PairKeys::from_exported(&EXPORTED, Side::Client);
        let batch = RecvBatch::new(16, 65_536);
        Self { overlay, own, peer, keys, now, passed: Duration::ZERO, batch }
    }

    fn wall_ns(&self) -> u64 {
        WALL_NS + self.passed.as_nanos() as u64
    }

    /// The neighbour sends a packet, and it is read.
    fn send(&mut self, packet: &[u8]) {
        self.peer.send_to(packet, self.own).unwrap();
        let before = self.overlay.totals().packets_in;
        let end = Instant::now() + Duration::from_secs(5);
        while self.overlay.totals().packets_in == before {
            assert!(Instant::now() < end, "it never came");
            let (now, wall_ns) = (self.now + self.passed, self.wall_ns());
            self.overlay.handle_readable(now, wall_ns, 0, &mut self.batch).unwrap();
        }
    }

    fn wait(&mut self, time: Duration) {
        self.passed += time;
        self.overlay.handle_timeout(self.now + self.passed);
        self.overlay.pump(self.now + self.passed, self.wall_ns());
    }

    /// The next request of this PoP, at the neighbour.
    fn request(&mut self) -> ProbeRequest {
        self.wait(Duration::from_millis(1));
        let mut buffer = [0; 2_000];
        loop {
            let length = self.peer.recv(&mut buffer).unwrap();
            if let Ok(read) = Probe::decode(&buffer[..length])
                && let Probe::Request(request) = read.probe
            {
                return request;
            }
        }
    }

    /// A packet that is to pass, under the neighbour's tag; `change` comes before it.
    fn outer(&self, change: impl FnOnce(&mut OuterHeader)) -> Vec<u8> {
        let labels = Labels::new(&[Label(70)]).unwrap();
        let mut header =
            OuterHeader { pointer: 0, worker: 0, epoch: self.keys.epoch, source: PopId(9), labels };
        change(&mut header);
        [header.encode(&self.keys.hop_send).as_slice(), &[9, 1, 0, 0]].concat()
    }

    fn hello(&self, path: u32, sequence: u32) -> Vec<u8> {
        let hello =
            Hello { source: PEER, path: PathId(path), sequence, sent_us: 1_000, reports: Reports::EMPTY };
        hello.encode(&self.keys.probe_send, self.keys.epoch).as_slice().to_vec()
    }

    fn link_down(&self, number: u64) -> Vec<u8> {
        let message = LinkDown { source: PEER, number, labels: Labels::new(&[Label(70)]).unwrap() };
        message.encode(&self.keys.probe_send, self.keys.epoch).as_slice().to_vec()
    }

    fn probe(&self, probe: Probe) -> Vec<u8> {
        probe.encode(&self.keys.probe_send, self.keys.epoch).to_vec()
    }

    fn asked(&self, link: u32) -> Vec<u8> {
        self.probe(Probe::Request(ProbeRequest { link: LinkId(link), sequence: 5, sent_ns: WALL_NS }))
    }

    fn answered(&self, request: ProbeRequest, received_ns: u64, residence_ns: u64) -> Vec<u8> {
        self.probe(Probe::Reply(ProbeReply { request, received_count: 1, received_ns, residence_ns }))
    }
}

fn changed(mut packet: Vec<u8>, place: usize, byte: u8) -> Vec<u8> {
    packet[place] = byte;
    packet
}

/// The last byte is another: that of a tag.
fn forged(mut packet: Vec<u8>) -> Vec<u8> {
    *packet.last_mut().unwrap() ^= 1;
    packet
}

fn other_epoch(epoch: Epoch) -> Epoch {
    Epoch::new(epoch.get() ^ 1)
}

type Row = (DropReason, fn(&mut Bench));

const ROWS: &[Row] = &[
    (DropReason::UnknownType, |bench| bench.send(&[0x0d; 60])),
    (DropReason::OuterTruncated, |bench| {
        let packet = bench.outer(|_| ());
        bench.send(&packet[..20]);
    }),
    (DropReason::OuterVersion, |bench| bench.send(&changed(bench.outer(|_| ()), 1, 0x20))),
    (DropReason::OuterLabels, |bench| bench.send(&changed(bench.outer(|_| ()), 3, 0x04))),
    (DropReason::OuterNoKey, |bench| {
        bench.send(&bench.outer(|header| header.epoch = other_epoch(header.epoch)));
    }),
    (DropReason::OuterTag, |bench| bench.send(&changed(bench.outer(|_| ()), 2, 1))),
    (DropReason::OuterNested, |bench| bench.send(&changed(bench.outer(|header| header.pointer = 1), 20, 8))),
    (DropReason::OuterLoop, |bench| bench.send(&bench.outer(|header| header.source = OWN))),
    (DropReason::OuterUnknownLabel, |bench| {
        bench.send(&bench.outer(|header| header.labels = Labels::new(&[Label(71)]).unwrap()));
    }),
    (DropReason::ChannelTruncated, |bench| bench.send(&changed(vec![9; 31], 1, 1))),
    (DropReason::ChannelVersion, |bench| bench.send(&changed(vec![9; 60], 1, 2))),
    (DropReason::ChannelUnknown, |bench| bench.send(&[&[9, 1, 0, 0][..], &[0; 60]].concat())),
    (DropReason::HelloTruncated, |bench| {
        let packet = bench.hello(1, 1);
        bench.send(&packet[..31]);
    }),
    (DropReason::HelloVersion, |bench| bench.send(&changed(bench.hello(1, 1), 1, 2))),
    (DropReason::HelloNoKey, |bench| {
        let number = other_epoch(bench.keys.epoch).get() << 4;
        bench.send(&changed(bench.hello(1, 1), 3, number));
    }),
    (DropReason::HelloTag, |bench| bench.send(&forged(bench.hello(1, 1)))),
    (DropReason::HelloReplayed, |bench| (0..2).for_each(|_| bench.send(&bench.hello(1, 1)))),
    (DropReason::HelloFull, |bench| (0..41).for_each(|path| bench.send(&bench.hello(path, 1)))),
    (DropReason::ProbeTruncated, |bench| {
        let packet = bench.asked(INCOMING);
        bench.send(&packet[..47]);
    }),
    (DropReason::ProbeKind, |bench| bench.send(&changed(bench.asked(INCOMING), 1, 3))),
    (DropReason::ProbeNoKey, |bench| {
        let number = other_epoch(bench.keys.epoch).get() << 4;
        bench.send(&changed(bench.asked(INCOMING), 3, number));
    }),
    (DropReason::ProbeTag, |bench| bench.send(&forged(bench.asked(INCOMING)))),
    (DropReason::ProbeLink, |bench| bench.send(&bench.asked(OUTGOING))),
    (DropReason::ProbeReplayed, |bench| (0..2).for_each(|_| bench.send(&bench.asked(INCOMING)))),
    (DropReason::ProbeLate, |bench| {
        let request = bench.request();
        bench.wait(Duration::from_millis(1_100));
        bench.send(&bench.answered(request, WALL_NS, 0));
    }),
    (DropReason::ProbeImpossible, |bench| {
        let request = bench.request();
        bench.send(&bench.answered(request, WALL_NS, u64::MAX));
    }),
    (DropReason::LinkDownTruncated, |bench| {
        let packet = bench.link_down(1);
        bench.send(&packet[..27]);
    }),
    (DropReason::LinkDownVersion, |bench| bench.send(&changed(bench.link_down(1), 1, 2))),
    (DropReason::LinkDownNoKey, |bench| {
        let number = other_epoch(bench.keys.epoch).get() << 4 | 1;
        bench.send(&changed(bench.link_down(1), 3, number));
    }),
    (DropReason::LinkDownTag, |bench| bench.send(&forged(bench.link_down(1)))),
    (DropReason::LinkDownReplayed, |bench| (0..2).for_each(|_| bench.send(&bench.link_down(1)))),
    (DropReason::LinkDownLimited, |bench| {
        const FAR_TOO_MANY: u64 = 10_000;
        let mut numbers = 1..FAR_TOO_MANY;
        while bench.overlay.totals().drops.is_empty() {
            let number = numbers.next().expect("there is a limit");
            bench.send(&bench.link_down(number));
        }
    }),
];

/// What only an established channel can drop: `tunnel`'s own tests have a row for each.
const IN_TUNNEL: [DropReason; 4] =
    [DropReason::ChannelReplayed, DropReason::ChannelOld, DropReason::ChannelAuth, DropReason::ChannelFrame];

#[test]
fn each_reason_has_a_packet_that_is_dropped_for_it_and_for_nothing_else() {
    for (reason, provoke) in ROWS {
        let mut bench = Bench::new();
        provoke(&mut bench);
        let drops: BTreeMap<_, _> = bench.overlay.totals().drops.into_iter().collect();
        assert_eq!(drops, BTreeMap::from([(reason.as_str(), 1)]));
    }
}

#[test]
fn the_rows_are_all_reasons_there_are() {
    let mut rows: Vec<_> = ROWS.iter().map(|(reason, _)| *reason).chain(IN_TUNNEL).collect();
    rows.sort_unstable();
    assert_eq!(
        rows,
        DropReason::ALL
            .iter()
            .copied()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
}
