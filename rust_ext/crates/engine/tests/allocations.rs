//! A packet that passes a transit PoP, and one that is refused there, allocate nothing, however many there are. A program of its own: its
//! allocator counts.

use l4proxy_io::allocations::{self, CountingAllocator};
use l4proxy_proto::forward::{ForwardTable, HopKeys, Outgoing, Verdict, wrap};
use l4proxy_wire::DropReason;
use l4proxy_wire::ids::{Label, LinkId, PopId};
use l4proxy_wire::keys::{Epoch, HopKey};
use l4proxy_wire::outer::Labels;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SOURCE: PopId = PopId(1);
const OWN: PopId = PopId(2);
const NEXT: PopId = PopId(3);

fn keys(own: PopId, other: PopId) -> HopKeys {
    let key = |from: PopId, to: PopId| HopKey::new([(from.0 << 4 | to.0) as u8; 16]);
    let mut keys = HopKeys::new();
    keys.add_receive(other, key(other, own), Epoch::new(1));
    keys.set_send(other, key(own, other), Epoch::new(1), false);
    keys
}

#[test]
fn a_packet_that_passes_or_is_refused_allocates_nothing() {
    let outgoing = |n: u32| (Label(n), Outgoing { link: LinkId(n), next: NEXT });
    let table = ForwardTable::new(OWN, (1..=64).map(outgoing)).expect("labels differ");
    let mut transit = keys(OWN, SOURCE);
    transit.set_send(NEXT, HopKey::new([7; 16]), Epoch::new(3), false);
    let source = keys(SOURCE, OWN);
    let made = |label: u32| {
        let labels = Labels::new(&[Label(label), Label(900), Label(901)]).expect("three");
        let key = source.find_send(OWN).expect("a neighbour");
        [wrap(SOURCE, labels, 0, key).as_slice(), &[0x40; 1_200]].concat()
    };
    let (good, unknown) = (made(17), made(4711));
    let mut forged = good.clone();
    forged[8] ^= 1;
    let mut packet = vec![0; good.len()];

    let before = allocations::count();
    let mut forwarded = 0;
    for _ in 0..100_000 {
        packet.copy_from_slice(&good);
        let verdict = table.handle_outer(&mut packet, SOURCE, &transit);
        forwarded += u32::from(verdict == Verdict::Forward { link: LinkId(17), next: NEXT });
        for (bad, reason) in [(&unknown, DropReason::OuterUnknownLabel), (&forged, DropReason::OuterTag)] {
            packet.copy_from_slice(bad);
            let verdict = table.handle_outer(&mut packet, SOURCE, &transit);
            forwarded += u32::from(verdict != Verdict::Drop(reason)) * 1_000_000;
        }
    }
    let after = allocations::count();
    assert_eq!((forwarded, after - before), (100_000, 0));

    // The allocator does count.
    let memory = std::hint::black_box(vec![1_u8; 100]);
    assert!(allocations::count() > after && memory.len() == 100);
}
