//! Arbitrary values of everything that has an encoding.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unreachable_pub, reason = "a module of tests, compiled into each of them")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use l4proxy_wire::codes::Reason;
use l4proxy_wire::hello::{Hello, MAX_REPORTS, Report, Reports};
use l4proxy_wire::ids::{FlowId, Label, LinkId, PathId, PopId};
use l4proxy_wire::keys::{Epoch, HopKey, ProbeKey};
use l4proxy_wire::link_down::LinkDown;
use l4proxy_wire::open::{OpenOwned, Protocol};
use l4proxy_wire::outer::{Labels, OuterHeader};
use l4proxy_wire::probe::{Probe, ProbeReply, ProbeRequest};
use proptest::collection::vec;
use proptest::prelude::*;

pub fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<(u32, u16)>().prop_map(|(ip, port)| SocketAddr::from((Ipv4Addr::from(ip), port))),
        any::<(u128, u16)>().prop_map(|(ip, port)| SocketAddr::from((Ipv6Addr::from(ip), port))),
    ]
}

/// A name that may be encoded: 1 to 255 bytes.
pub fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9.-]{1,40}", "[a-zä-ü]{1,100}", "[a-z]{255}"]
}

pub fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

pub fn reason() -> impl Strategy<Value = Reason> {
    proptest::sample::select(Reason::ALL)
}

pub fn open() -> impl Strategy<Value = OpenOwned> {
    (protocol(), any::<u64>(), name(), name(), address(), address(), any::<u32>()).prop_map(
        |(protocol, flow, app, origin, client, listener, deadline_ms)| OpenOwned {
            protocol,
            flow: FlowId(flow),
            app,
            origin,
            client,
            listener,
            deadline_ms,
        },
    )
}

pub fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u8>().prop_map(Epoch::new)
}

pub fn hop_key() -> impl Strategy<Value = HopKey> {
    any::<[u8; 16]>().prop_map(HopKey::new)
}

pub fn probe_key() -> impl Strategy<Value = ProbeKey> {
    any::<[u8; 16]>().prop_map(ProbeKey::new)
}

pub fn outer() -> impl Strategy<Value = OuterHeader> {
    (vec(any::<u32>(), 1..=3), any::<u8>(), any::<u8>(), epoch(), any::<u32>()).prop_map(
        |(labels, pointer, worker, epoch, source)| {
            let labels: Vec<_> = labels.into_iter().map(Label).collect();
            OuterHeader {
                pointer: pointer % (labels.len() as u8 + 1),
                worker,
                epoch,
                source: PopId(source),
                labels: Labels::new(&labels).expect("one to three labels"),
            }
        },
    )
}

pub fn hello() -> impl Strategy<Value = Hello> {
    let report = any::<(u32, u32, u32, u32)>().prop_map(|(path, sequence, heard, age_us)| Report {
        path: PathId(path),
        sequence,
        heard: heard | 1,
        age_us,
    });
    (any::<(u32, u32, u32, u64)>(), vec(report, 0..=MAX_REPORTS)).prop_map(
        |((source, path, sequence, sent_us), list)| {
            let mut reports = Reports::EMPTY;
            for report in list {
                assert!(reports.push(report));
            }
            Hello { source: PopId(source), path: PathId(path), sequence, sent_us, reports }
        },
    )
}

pub fn link_down() -> impl Strategy<Value = LinkDown> {
    (any::<(u32, u64)>(), vec(any::<u32>(), 1..=3)).prop_map(|((source, number), labels)| {
        let labels: Vec<_> = labels.into_iter().map(Label).collect();
        let labels = Labels::new(&labels).expect("one to three labels");
        LinkDown { source: PopId(source), number, labels }
    })
}

pub fn probe() -> impl Strategy<Value = Probe> {
    let request = any::<(u32, u32, u64)>().prop_map(|(link, sequence, sent_ns)| ProbeRequest {
        link: LinkId(link),
        sequence,
        sent_ns,
    });
    (request, any::<Option<(u32, u64, u64)>>()).prop_map(|(request, reply)| match reply {
        None => Probe::Request(request),
        Some((received_count, received_ns, residence_ns)) => {
            Probe::Reply(ProbeReply { request, received_count, received_ns, residence_ns })
        }
    })
}
