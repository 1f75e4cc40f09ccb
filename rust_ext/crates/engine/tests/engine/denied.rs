//! An ingress PoP that asks its egress for what is not in the egress' own configuration: nothing is dialled, the reason is counted, and the
//! daemon hears which PoP asked for what.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener};

use crate::overlay::{Udp, assert_reset, dialled, tcp, through, udp};
use crate::value::Value;
use crate::world::{App, Daemon, eventually};

/// What is different at the egress.
struct Case {
    change: fn(App) -> App,
    /// What the ingress is told, and its record says.
    reason: &'static str,
    /// What the egress counts.
    counted: &'static str,
}

/// Nobody is there, and nobody is asked.
const ELSEWHERE: &str = "127.0.0.1:9";

const CASES: [Case; 4] = [
    Case { change: |app| app.with("name", "chess"), reason: "unknown_app", counted: "egress_unknown_app" },
    Case {
        change: |mut app| {
            app.origins = vec![ELSEWHERE.parse().unwrap()];
            app
        },
        reason: "unknown_origin",
        counted: "egress_unknown_origin",
    },
    Case { change: |app| app.with("admits_egress", false), reason: "denied", counted: "egress_denied" },
    // The port that the origin has follows from a listener, which must be one of the app.
    Case { change: |app| app.with("all_listens", vec![]), reason: "denied", counted: "egress_denied" },
];

const ALL: [&str; 3] = ["egress_unknown_app", "egress_unknown_origin", "egress_denied"];

/// The egress has counted this reason so often, and none of its kind besides.
fn assert_counted(daemon: &mut Daemon, counted: &str) -> u64 {
    let counters = daemon.counters();
    let counts = ALL.map(|name| counters.at(&["drops"]).integer(name));
    let own = ALL.iter().position(|name| *name == counted).unwrap();
    assert_eq!(counts.iter().sum::<u64>(), counts[own], "{counts:?}");
    counts[own]
}

fn assert_told(daemon: &mut Daemon, case: &Case, protocol: &str, origin: SocketAddr) {
    let event = daemon.event("request_denied");
    let said = ["peer", "app", "origin", "protocol", "reason"].map(|field| event.text(field).to_owned());
    assert_eq!(said, ["ams", "game", &origin.to_string(), protocol, case.reason]);
    assert_eq!(event.integer("count"), 1);
}

#[test]
fn a_tcp_flow_to_what_is_not_configured_at_the_egress_is_refused_counted_and_reported() {
    for case in &CASES {
        let mut tcp = tcp(1, case.change);
        assert_reset(&mut tcp.connect());
        let record = tcp.record(0);
        assert_eq!((record.integer("code"), record.text("reason")), (606, case.reason));
        let origin = tcp.origin.local_addr().unwrap();
        let daemon = &mut tcp.fleet.pops[1].daemon;
        assert_eq!(assert_counted(daemon, case.counted), 1);
        assert_told(daemon, case, "tcp", origin);
        assert_nobody_came(&tcp.origin);
    }
}

fn assert_nobody_came(origin: &TcpListener) {
    origin.set_nonblocking(true).unwrap();
    assert_eq!(origin.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// The egress' configuration changes under the ingress.
fn udp_with(change: fn(App) -> App) -> Udp {
    let mut udp = udp(1, 60_000);
    let app = || App::new("udp", udp.listener, udp.origin.local_addr().unwrap());
    let apps = [through(app(), &[]), change(dialled(app()))];
    udp.fleet.apply([&apps[..1], &apps[1..]]);
    udp
}

#[test]
fn a_udp_flow_to_what_is_not_configured_at_the_egress_is_refused_counted_and_reported() {
    for case in &CASES {
        let mut udp = udp_with(case.change);
        let [ingress, egress] = &mut udp.fleet.pops;
        eventually("the refusal has arrived", || {
            udp.client.send_to(b"knock", udp.listener).unwrap();
            ingress.daemon.counters().at(&["drops"]).integer("udp_flow_refused") > 0
        });
        // What is refused stays refused for a while: no storm.
        for _ in 0..50 {
            udp.client.send_to(b"knock", udp.listener).unwrap();
        }
        let asked = assert_counted(&mut egress.daemon, case.counted);
        assert!((1..10).contains(&asked), "asked {asked} times");
        assert_told(&mut egress.daemon, case, "udp", udp.origin.local_addr().unwrap());
        udp.origin.set_nonblocking(true).unwrap();
        assert!(udp.origin.recv(&mut [0; 8]).is_err());
    }
}

#[test]
fn a_pop_that_asks_again_and_again_is_counted_each_time_and_reported_once() {
    let mut tcp = tcp(1, |app| app.with("admits_egress", false));
    const FLOWS: u64 = 20;
    for _ in 0..FLOWS {
        // Each ends before the next begins.
        assert!(tcp.connect().read(&mut [0]).is_err());
    }
    let daemon = &mut tcp.fleet.pops[1].daemon;
    assert_eq!(assert_counted(daemon, "egress_denied"), FLOWS);
    daemon.event("request_denied");
    let more = daemon.heard("events").into_iter().flat_map(|body| body.list("events").to_vec());
    assert_eq!(more.filter(|event: &Value| event.text("kind") == "request_denied").count(), 0);
}
