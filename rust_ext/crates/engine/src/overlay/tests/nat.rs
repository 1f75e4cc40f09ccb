//! PoP 0 behind NAT: a pair of sockets for each other PoP translates addresses as a router does, and may begin to use others at any time.

use std::collections::VecDeque;

use super::*;

/// Packets of PoP 0 that are remembered for whoever wants to send them again.
const REMEMBERED: usize = 4_096;

/// One mapping of the router.
struct Mapping {
    /// What PoP 0 takes for the other PoP.
    inner: UdpSocket,
    /// What the other PoP sees; replaced when the mapping is.
    outer: UdpSocket,
    other: SocketAddr,
}

/// The router.
pub(super) struct Nat {
    own: SocketAddr,
    mappings: Vec<(usize, Mapping)>,
    seen: VecDeque<(usize, Vec<u8>)>,
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

impl Nat {
    fn new(addresses: &[SocketAddr]) -> Self {
        let mapping = |other: &SocketAddr| Mapping { inner: socket(), outer: socket(), other: *other };
        let mappings =
            addresses.iter().enumerate().skip(1).map(|(pop, other)| (pop, mapping(other))).collect();
        Self { own: addresses[0], mappings, seen: VecDeque::new() }
    }

    /// Where PoP 0 believes that PoP `pop` is.
    pub(super) fn inner(&self, pop: usize) -> SocketAddr {
        self.mapping(pop).inner.local_addr().unwrap()
    }

    fn mapping(&self, pop: usize) -> &Mapping {
        &self.mappings.iter().find(|(number, _)| *number == pop).unwrap().1
    }

    /// All mappings are other ones from now on.
    fn rebind(&mut self) {
        for (_, mapping) in &mut self.mappings {
            mapping.outer = socket();
        }
    }

    pub(super) fn carry(&mut self) {
        let mut buffer = [0; 65_536];
        for (pop, mapping) in &self.mappings {
            while let Ok((count, _)) = mapping.inner.recv_from(&mut buffer) {
                mapping.outer.send_to(&buffer[..count], mapping.other).unwrap();
                self.seen.push_back((*pop, buffer[..count].to_vec()));
                if self.seen.len() > REMEMBERED {
                    self.seen.pop_front();
                }
            }
            while let Ok((count, from)) = mapping.outer.recv_from(&mut buffer) {
                if from == mapping.other {
                    mapping.inner.send_to(&buffer[..count], self.own).unwrap();
                }
            }
        }
    }
}

impl World {
    fn behind_nat() -> Self {
        let mut world = Self::new();
        world.nat = Some(Nat::new(&world.addresses));
        world.apply(direct);
        world.until_tunnels_are_up();
        world.until("the others know where it is", |world| world.moves() == [0, 1, 1]);
        world
    }

    fn moves(&self) -> Vec<u64> {
        self.pops.iter().map(|pop| pop.overlay.totals().address_moves).collect()
    }

    fn rebind(&mut self) {
        self.nat.as_mut().unwrap().rebind();
    }
}

#[test]
fn flows_go_both_ways_to_a_pop_that_can_only_dial_out() {
    let mut world = World::behind_nat();
    world.exchange_from(0, 2);
    world.exchange_from(1, 0);
    assert_eq!(world.moves(), [0, 1, 1]);
}

#[test]
fn a_flow_between_it_and_another_pop_passes_a_transit_both_ways() {
    let mut world = World::behind_nat();
    world.apply(around);
    world.exchange_from(0, 2);
    world.exchange_from(2, 0);
    assert!(world.pops[1].overlay.totals().bytes_forwarded > 4_000_000);
}

#[test]
fn it_is_a_transit_itself() {
    let mut world = World::behind_nat();
    world.apply(|from, to| if from + to == 3 { vec![path(&[from, 0, to])] } else { direct(from, to) });
    world.exchange_from(1, 2);
    assert!(world.pops[0].overlay.totals().bytes_forwarded > 2_000_000);
}

#[test]
fn a_mapping_that_changes_under_a_live_flow_costs_no_reset() {
    let mut world = World::behind_nat();
    let (sender, receiver) = world.opened_from(0, 2);
    let (back_sender, back_receiver) = world.opened_from(1, 0);
    for round in 0..3 {
        world.rebind();
        world.until("the others find it again", |world| world.moves() == [0, round + 2, round + 2]);
        let lost = |report: &OverlayReport| matches!(report, OverlayReport::TunnelDown { .. });
        assert!(!world.pops.iter().any(|pop| pop.reports.iter().any(lost)));
        let now = world.now();
        for (from, sender, to, receiver) in [(0, sender, 2, receiver), (1, back_sender, 0, back_receiver)] {
            assert_eq!(world.pops[from].overlay.write(now, sender, b"still here"), StreamWrite::Wrote(10));
            let mut buffer = [0; 64];
            world.until("what was written", |world| {
                matches!(world.pops[to].overlay.read(receiver, &mut buffer), StreamRead::Data(10))
            });
        }
    }
}

#[test]
fn who_replays_its_packets_from_elsewhere_moves_nothing() {
    let mut world = World::behind_nat();
    world.exchange_from(0, 2);
    let attacker = socket();
    let seen: Vec<_> = world.nat.as_ref().unwrap().seen.iter().cloned().collect();
    assert!(seen.iter().any(|(_, packet)| packet[0] == 0x0b), "probes are among them");
    for (pop, packet) in &seen {
        attacker.send_to(packet, world.addresses[*pop]).unwrap();
        let mut forged = packet.clone();
        *forged.last_mut().unwrap() ^= 1;
        attacker.send_to(&forged, world.addresses[*pop]).unwrap();
        world.turn();
    }

    world.exchange_from(1, 0);
    assert_eq!(world.moves(), [0, 1, 1]);
    let (mut buffer, mut received, sent) =
        ([0; 65_536], 0, seen.iter().map(|(_, packet)| 2 * packet.len()).sum());
    while let Ok((count, _)) = attacker.recv_from(&mut buffer) {
        received += count;
    }
    assert!(received <= sent, "{received} bytes came back to an attacker that sent {sent}");
}

/// It has the packet before anybody else, and still cannot answer what is asked at its address.
#[test]
fn who_holds_its_packets_back_and_sends_them_from_elsewhere_moves_nothing() {
    let mut world = World::behind_nat();
    let attacker = socket();
    let mut buffer = [0; 65_536];
    for _ in 0..300 {
        // PoP 0 and its router are not given a turn: what it sends next is the attacker's first.
        let nat = world.nat.take().unwrap();
        while let Ok((count, _)) = nat.mapping(2).inner.recv_from(&mut buffer) {
            attacker.send_to(&buffer[..count], nat.mapping(2).other).unwrap();
        }
        world.nat = Some(nat);
        world.turn();
    }
    world.exchange_from(0, 2);
    assert_eq!(world.moves(), [0, 1, 1]);
    assert!(attacker.recv_from(&mut buffer).is_ok(), "it was asked, and could not answer");
}
