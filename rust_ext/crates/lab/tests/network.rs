//! The emulator's core in virtual time: what goes in at which time comes out when, and nothing is lost uncounted.

#![allow(clippy::unwrap_used, reason = "a test that panics has said what it had to say")]

use l4proxy_lab::error::LabError;
use l4proxy_lab::link::{LinkCounters, LinkProperties};
use l4proxy_lab::network::{LinkConfig, Network, NetworkConfig};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

const MS: u64 = 1_000_000;

fn address(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, host))
}

fn packet(from: u8, to: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length.max(20)];
    bytes[0] = 0x45;
    bytes[12..16].copy_from_slice(&[10, 77, 0, from]);
    bytes[16..20].copy_from_slice(&[10, 77, 0, to]);
    bytes
}

fn link(name: &str, from: u8, to: u8, properties: LinkProperties) -> LinkConfig {
    let pairs = vec![(address(from), address(to))];
    LinkConfig { name: name.into(), from_host: from.into(), to_host: to.into(), pairs, properties }
}

fn network(hosts: usize, links: Vec<LinkConfig>) -> Network {
    Network::new(NetworkConfig { hosts, links, seed: 42, ..Default::default() }).unwrap()
}

fn one_link(properties: LinkProperties) -> Network {
    network(2, vec![link("a>b", 0, 1, properties)])
}

fn counters(network: &Network) -> LinkCounters {
    *network.link_counters().next().unwrap().1
}

/// Hands over everything, each packet when it is due; gives (time, first byte after the header).
fn drain(network: &mut Network) -> Vec<(u64, u8)> {
    let mut arrived = Vec::new();
    while let Some(due_ns) = network.next_due_ns() {
        while let Some(delivery) = network.poll_delivery(due_ns) {
            assert_eq!(delivery.due_ns, due_ns);
            arrived.push((delivery.due_ns, delivery.packet.get(20).copied().unwrap_or(0)));
        }
    }
    arrived
}

#[test]
fn a_packet_arrives_exactly_one_delay_later() {
    let mut network = one_link(LinkProperties { delay_ns: 90 * MS, ..Default::default() });
    network.handle_packet(5, 0, &packet(0, 1, 100));
    assert_eq!(network.next_due_ns(), Some(90 * MS + 5));
    assert_eq!(network.poll_delivery(90 * MS + 4), None);
    let delivery = network.poll_delivery(90 * MS + 5).unwrap();
    assert_eq!((delivery.host, delivery.packet.len()), (1, 100));
    assert_eq!(network.under_way(), 0);
    assert_eq!(
        counters(&network),
        LinkCounters { sent: 1, delivered: 1, delivered_bytes: 100, ..Default::default() }
    );
}

#[test]
fn links_are_directed_and_found_by_both_addresses() {
    let slow = LinkProperties { delay_ns: 50 * MS, ..Default::default() };
    let fast = LinkProperties { delay_ns: 10 * MS, ..Default::default() };
    let mut network = network(3, vec![link("a>b", 0, 1, slow), link("b>a", 1, 0, fast)]);
    network.handle_packet(0, 0, &packet(0, 1, 40));
    network.handle_packet(0, 1, &packet(1, 0, 40));
    network.handle_packet(0, 0, &packet(0, 2, 40));
    network.handle_packet(0, 2, &packet(0, 1, 40));
    network.handle_packet(0, 0, b"not ip");
    let mut group = packet(0, 1, 40);
    group[16..20].copy_from_slice(&[224, 0, 0, 1]);
    network.handle_packet(0, 0, &group);
    assert_eq!(drain(&mut network).iter().map(|a| a.0).collect::<Vec<_>>(), [10 * MS, 50 * MS]);
    let counted = network.counters();
    assert_eq!((counted.unknown_destination, counted.wrong_host), (1, 1));
    assert_eq!((counted.not_ip, counted.not_routable), (1, 1));
}

#[test]
fn two_transits_of_one_host_are_two_links() {
    let over = |transit: u8, delay_ns| LinkConfig {
        name: format!("a/{transit}>b"),
        from_host: 0,
        to_host: 1,
        pairs: vec![(address(transit), address(1))],
        properties: LinkProperties { delay_ns, ..Default::default() },
    };
    let mut network = network(2, vec![over(10, 30 * MS), over(11, 20 * MS)]);
    network.handle_packet(0, 0, &packet(10, 1, 40));
    network.handle_packet(0, 0, &packet(11, 1, 40));
    assert_eq!(drain(&mut network).iter().map(|a| a.0).collect::<Vec<_>>(), [20 * MS, 30 * MS]);
}

#[test]
fn a_rate_spaces_packets_and_a_full_queue_drops_the_newest() {
    // 1,000 bytes at 8 Mbit/s take 1 ms; 2,500 bytes of queue hold two packets and not three.
    let properties = LinkProperties {
        rate_bits_s: Some(8_000_000),
        queue_bytes: 2_500,
        delay_ns: MS,
        ..Default::default()
    };
    let mut network = one_link(properties);
    for _ in 0..5 {
        network.handle_packet(0, 0, &packet(0, 1, 1_000));
    }
    assert_eq!(drain(&mut network).iter().map(|a| a.0).collect::<Vec<_>>(), [2 * MS, 3 * MS]);
    assert_eq!(counters(&network).dropped_queue, 3);
    network.handle_packet(10 * MS, 0, &packet(0, 1, 1_000));
    assert_eq!(drain(&mut network), [(12 * MS, 0)]);
}

#[test]
fn a_packet_larger_than_the_queue_passes_an_idle_port() {
    let properties = LinkProperties { rate_bits_s: Some(8_000_000), queue_bytes: 1, ..Default::default() };
    let mut network = one_link(properties);
    network.handle_packet(0, 0, &packet(0, 1, 1_000));
    network.handle_packet(0, 0, &packet(0, 1, 1_000));
    assert_eq!(drain(&mut network).len(), 1);
}

#[test]
fn a_cut_loses_what_is_under_way_and_a_mended_link_carries_again() {
    let properties = LinkProperties { delay_ns: 50 * MS, ..Default::default() };
    let mut network = one_link(properties.clone());
    network.handle_packet(0, 0, &packet(0, 1, 40));
    network.set("a>b", LinkProperties { cut: true, ..properties.clone() }).unwrap();
    network.handle_packet(10 * MS, 0, &packet(0, 1, 40));
    // Mended before the first packet would have arrived: it is lost all the same.
    network.set("a>b", properties).unwrap();
    network.handle_packet(20 * MS, 0, &packet(0, 1, 40));
    assert_eq!(drain(&mut network), [(70 * MS, 0)]);
    assert_eq!(
        counters(&network),
        LinkCounters { sent: 3, delivered: 1, delivered_bytes: 40, dropped_cut: 2, ..Default::default() }
    );
}

#[test]
fn a_one_way_cut_leaves_the_other_direction() {
    let properties = LinkProperties { delay_ns: MS, ..Default::default() };
    let mut network =
        network(2, vec![link("a>b", 0, 1, properties.clone()), link("b>a", 1, 0, properties.clone())]);
    network.set("a>b", LinkProperties { cut: true, ..properties }).unwrap();
    network.handle_packet(0, 0, &packet(0, 1, 40));
    network.handle_packet(0, 1, &packet(1, 0, 40));
    let delivery = network.poll_delivery(MS).unwrap();
    assert_eq!(delivery.host, 0);
    assert_eq!(network.poll_delivery(10 * MS), None);
}

#[test]
fn memory_is_bounded_and_what_does_not_fit_is_counted() {
    let links = vec![link("a>b", 0, 1, LinkProperties { delay_ns: MS, ..Default::default() })];
    let mut network = Network::new(NetworkConfig { hosts: 2, links, seed: 1, max_bytes: 5_000 }).unwrap();
    for _ in 0..10 {
        network.handle_packet(0, 0, &packet(0, 1, 1_000));
    }
    assert_eq!(network.under_way(), 4);
    assert!(network.peak_bytes() <= 5_000);
    assert_eq!(counters(&network).dropped_memory, 6);
    assert_eq!(drain(&mut network).len(), 4);
    network.handle_packet(2 * MS, 0, &packet(0, 1, 1_000));
    assert_eq!(network.under_way(), 1, "the memory of what has arrived is free again");
}

#[test]
fn a_refused_delivery_moves_to_its_own_counter() {
    let mut network = one_link(LinkProperties::default());
    network.handle_packet(0, 0, &packet(0, 1, 40));
    let delivery = network.poll_delivery(0).unwrap();
    network.on_device_refused(&delivery);
    assert_eq!(counters(&network), LinkCounters { sent: 1, dropped_device: 1, ..Default::default() });
}

/// Sends `count` packets a millisecond apart; gives the counters.
fn lose(properties: LinkProperties, count: u64) -> (LinkCounters, Vec<bool>) {
    let mut network = one_link(properties);
    let mut survived = Vec::new();
    for number in 0..count {
        network.send(number * MS, 0, b"x");
        survived.push(network.poll_delivery(number * MS).is_some());
    }
    (counters(&network), survived)
}

#[test]
fn random_loss_has_the_configured_share() {
    let (counted, _) = lose(LinkProperties { loss_ratio: 0.05, ..Default::default() }, 100_000);
    // Three standard deviations of a binomial: 3 × sqrt(100,000 × 0.05 × 0.95) = 207.
    assert!(counted.lost_random.abs_diff(5_000) < 207, "{counted:?}");
    assert_eq!(counted.sent, counted.delivered + counted.lost_random);
}

#[test]
fn bursts_have_the_configured_share_and_length() {
    let properties = LinkProperties { burst_loss_ratio: 0.05, burst_packets: 8.0, ..Default::default() };
    let (counted, survived) = lose(properties, 400_000);
    let share = counted.lost_burst as f64 / 400_000.0;
    assert!((share - 0.05).abs() < 0.003, "share {share}");
    let bursts = survived.windows(2).filter(|pair| pair[0] && !pair[1]).count();
    let length = counted.lost_burst as f64 / bursts as f64;
    assert!((length - 8.0).abs() < 0.4, "length {length}");
}

#[test]
fn jitter_has_the_configured_mean_difference() {
    let properties =
        LinkProperties { jitter_ns: 2 * MS, delay_ns: 10 * MS, reorder: true, ..Default::default() };
    let mut network = one_link(properties);
    let mut delays = Vec::new();
    for number in 0..50_000u64 {
        let sent_ns = number * 1_000 * MS;
        network.send(sent_ns, 0, b"x");
        delays.push(network.next_due_ns().unwrap() - sent_ns);
        network.poll_delivery(u64::MAX);
    }
    let difference = delays.windows(2).map(|d| d[0].abs_diff(d[1])).sum::<u64>() as f64 / 49_999.0;
    assert!((difference / MS as f64 - 2.0).abs() < 0.05, "{difference}");
    assert!(delays.iter().all(|delay| *delay >= 10 * MS));
}

#[test]
fn jitter_that_keeps_order_does_not_grow_with_the_packet_rate() {
    let mean_delay_ms = |interval_ns: u64| {
        let properties = LinkProperties { jitter_ns: 10 * MS, delay_ns: 100 * MS, ..Default::default() };
        let mut network = one_link(properties);
        let (mut sent, mut total) = (0u64, 0u64);
        while sent < 200_000 {
            let now_ns = sent * interval_ns;
            network.send(now_ns, 0, &now_ns.to_be_bytes());
            while let Some(delivery) = network.poll_delivery(now_ns) {
                total += delivery.due_ns - u64::from_be_bytes(delivery.packet.as_ref().try_into().unwrap());
            }
            sent += 1;
        }
        total as f64 / counters(&network).delivered as f64 / MS as f64
    };
    // 10 ms of mean extra delay, and what packets wait for those before them when it shrinks: mean² / (2 × hold) = 2.5 ms.
    assert!((mean_delay_ms(50 * MS) - 110.0).abs() < 1.0);
    assert!((mean_delay_ms(MS) - 112.5).abs() < 1.0);
    assert!((mean_delay_ms(MS / 10) - 112.5).abs() < 3.0);
}

#[test]
fn only_a_link_told_to_reorder_does() {
    let order = |reorder| {
        let properties = LinkProperties { jitter_ns: 20 * MS, reorder, ..Default::default() };
        let mut network = one_link(properties);
        for number in 0..200u8 {
            let mut bytes = packet(0, 1, 21);
            bytes[20] = number;
            network.handle_packet(u64::from(number) * MS, 0, &bytes);
        }
        drain(&mut network).iter().map(|arrived| arrived.1).collect::<Vec<_>>()
    };
    assert_eq!(order(false), (0..200).collect::<Vec<_>>());
    assert_ne!(order(true), (0..200).collect::<Vec<_>>());
}

#[test]
fn values_that_cannot_be_had_are_refused_and_change_nothing() {
    let mut network = one_link(LinkProperties::default());
    let refused = [
        LinkProperties { loss_ratio: 1.5, ..Default::default() },
        LinkProperties { loss_ratio: f64::NAN, ..Default::default() },
        LinkProperties { burst_loss_ratio: 0.9, burst_packets: 2.0, ..Default::default() },
        LinkProperties { burst_packets: 0.0, ..Default::default() },
        LinkProperties { burst_packets: f64::NAN, ..Default::default() },
        LinkProperties { rate_bits_s: Some(0), ..Default::default() },
        LinkProperties { queue_bytes: 0, ..Default::default() },
        LinkProperties { delay_ns: u64::MAX, ..Default::default() },
    ];
    for properties in refused {
        assert!(network.set("a>b", properties.clone()).is_err(), "{properties:?}");
    }
    assert_eq!(network.properties("a>b").unwrap(), &LinkProperties::default());
    assert!(matches!(network.set("b>a", LinkProperties::default()), Err(LabError::NoLink { .. })));
}

#[test]
fn links_that_contradict_each_other_are_refused() {
    let make = |links| Network::new(NetworkConfig { hosts: 2, links, ..Default::default() }).map(|_| ());
    let plain = LinkProperties::default;
    let twice = vec![link("a>b", 0, 1, plain()), link("x", 0, 1, plain())];
    assert!(matches!(make(twice), Err(LabError::SamePair { .. })));
    let mut double = link("a>b", 0, 1, plain());
    double.pairs.push(double.pairs[0]);
    assert!(matches!(make(vec![double]), Err(LabError::SamePair { .. })));
    let named = vec![link("a>b", 0, 1, plain()), link("a>b", 1, 0, plain())];
    assert!(matches!(make(named), Err(LabError::SameName { .. })));
    assert!(matches!(make(vec![link("a>c", 0, 2, plain())]), Err(LabError::NoHost { host: 2, .. })));
    let crowd = NetworkConfig { hosts: 257, ..Default::default() };
    assert!(matches!(Network::new(crowd), Err(LabError::TooMany { what: "hosts", .. })));
}

#[test]
fn one_links_traffic_does_not_change_what_another_loses() {
    let lossy = LinkProperties { loss_ratio: 0.5, ..Default::default() };
    let run = |noise: bool| {
        let mut network =
            network(2, vec![link("a>b", 0, 1, lossy.clone()), link("b>a", 1, 0, lossy.clone())]);
        (0..200u64)
            .map(|number| {
                if noise {
                    network.send(number, 1, b"noise");
                    while network.poll_delivery(number).is_some() {}
                }
                network.send(number, 0, b"x");
                network.poll_delivery(number).is_some()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(false), run(true));
}

fn any_properties() -> impl Strategy<Value = LinkProperties> {
    (
        0..100 * MS,
        0..20 * MS,
        any::<bool>(),
        0.0..1.0f64,
        0.0..0.5f64,
        proptest::option::of(8_000..1_000_000_000u64),
        1..100_000u64,
    )
        .prop_map(
            |(delay_ns, jitter_ns, reorder, loss_ratio, burst_loss_ratio, rate_bits_s, queue_bytes)| {
                LinkProperties {
                    delay_ns,
                    jitter_ns,
                    reorder,
                    loss_ratio,
                    burst_loss_ratio,
                    rate_bits_s,
                    queue_bytes,
                    ..Default::default()
                }
            },
        )
}

proptest! {
    /// Whatever a link is told to do, every packet has exactly one fate, arrives in time order and never before its delay.
    #[test]
    fn every_packet_has_one_fate(
        properties in any_properties(),
        gaps in proptest::collection::vec((0..5 * MS, 20..1500usize, any::<bool>()), 1..200),
    ) {
        let mut network = one_link(properties.clone());
        let (mut now, mut earliest, mut arrived) = (0, 0, 0u64);
        for (gap, length, change) in gaps {
            now += gap;
            while let Some(delivery) = network.poll_delivery(now) {
                prop_assert!(delivery.due_ns >= earliest && delivery.due_ns <= now);
                earliest = delivery.due_ns;
                arrived += 1;
            }
            if change && now % 7 == 0 {
                let cut = !network.properties("a>b").unwrap().cut;
                network.set("a>b", LinkProperties { cut, ..properties.clone() }).unwrap();
            }
            network.handle_packet(now, 0, &packet(0, 1, length));
            prop_assert!(network.next_due_ns().is_none_or(|due| due >= earliest));
        }
        arrived += drain(&mut network).len() as u64;
        let c = counters(&network);
        prop_assert_eq!(c.delivered, arrived);
        prop_assert_eq!(c.sent, c.delivered + c.lost_random + c.lost_burst + c.dropped_queue + c.dropped_cut + c.dropped_memory);
    }
}
