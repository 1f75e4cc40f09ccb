//! What a lookup in an access table of a million prefixes takes, in nanoseconds and bytes: `cargo run --release --example access_bench`.
//!
//! Three sorts of lists: IPv4, IPv6 with prefixes anywhere in 2000::/3, and IPv6 all within one /32. `bench/RESULTS.md` has a result.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use l4proxy_proto::access::{AccessTable, Lists, Prefix};

const PREFIXES: usize = 1_000_000;
const LOOKUPS: usize = 4_000_000;
const RUNS: usize = 5;

/// Numbers that look random and are the same in every run (Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn v4(random: &mut Random) -> (IpAddr, u8) {
    (Ipv4Addr::from_bits(random.next() as u32).into(), 20 + (random.next() % 13) as u8)
}

fn v6(random: &mut Random) -> (IpAddr, u8) {
    let bits = (u128::from(random.next()) << 64 | u128::from(random.next())) >> 3 | 1 << 125;
    (Ipv6Addr::from_bits(bits).into(), 32 + (random.next() % 33) as u8)
}

fn v6_of_one_network(random: &mut Random) -> (IpAddr, u8) {
    let bits = u128::from(random.next()) << 64 | u128::from(random.next());
    (Ipv6Addr::from_bits(0x2001_0db8 << 96 | bits >> 32).into(), 56 + (random.next() % 73) as u8)
}

/// An address and the length of a prefix.
type Pick = fn(&mut Random) -> (IpAddr, u8);

fn table(pick: Pick) -> AccessTable {
    let (mut random, mut lists) = (Random(1), Lists::default());
    for index in 0..PREFIXES {
        let (address, length) = pick(&mut random);
        if let Some(prefix) = Prefix::new(address, length) {
            lists.add(prefix, index % 4 == 0);
        }
    }
    lists.build(true)
}

/// Kept out of the loops: what the compiler makes of a loop that it sees through is another loop for each sort of list. By reference: a
/// copy on the stack is written in other pieces than it is read in, and the processor then waits until all that came before is done.
#[inline(never)]
fn allows(table: &AccessTable, client: &IpAddr) -> bool {
    table.allows(*client)
}

fn main() {
    println!("{PREFIXES} prefixes, {LOOKUPS} lookups of random addresses, median of {RUNS} runs");
    let kinds: [(&str, Pick); 3] = [("IPv4", v4), ("IPv6", v6), ("IPv6 in one /32", v6_of_one_network)];
    for (name, pick) in kinds {
        let began = Instant::now();
        let table = table(pick);
        let built_ms = began.elapsed().as_millis();
        let mut random = Random(2);
        let clients: Vec<IpAddr> = (0..LOOKUPS).map(|_| pick(&mut random).0).collect();
        let mut nanoseconds: Vec<f64> = (0..RUNS)
            .map(|_| {
                let began = Instant::now();
                let allowed: usize = clients.iter().map(|client| usize::from(allows(&table, client))).sum();
                black_box(allowed);
                began.elapsed().as_nanos() as f64 / LOOKUPS as f64
            })
            .collect();
        nanoseconds.sort_by(f64::total_cmp);
        // Each lookup waits for the one before, as if every client were the first of its turn.
        let began = Instant::now();
        let mut carried = 0usize;
        for index in 0..LOOKUPS {
            carried = usize::from(allows(&table, &clients[index ^ (carried & 1)]));
        }
        black_box(carried);
        let chained = began.elapsed().as_nanos() as f64 / LOOKUPS as f64;
        let (lookup, megabytes) = (nanoseconds[RUNS / 2], table.bytes() as f64 / 1e6);
        println!(
            "{name}: {lookup:.0} ns a lookup, {chained:.0} ns one after the other, {megabytes:.1} MB, built in {built_ms} ms"
        );
    }
}
