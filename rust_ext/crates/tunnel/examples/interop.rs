//! Runs the QUIC interop runner's cases between two PoPs in virtual time, each with so many seeds from a number on, and prints one JSON
//! object a case: `interop FIRST-SEED SEEDS`. `l4proxy bench overlay` reads it. What the cases are stands with the tests, which run them too.

#![expect(clippy::unwrap_used, reason = "as in the tests that it shares its network with")]
#![expect(clippy::wildcard_enum_match_arm, reason = "as in the tests that it shares its network with")]
#![expect(clippy::print_stdout, reason = "it is there to print")]

#[path = "../tests/tunnels/interop.rs"]
mod cases;
#[path = "../tests/tunnels/certificates.rs"]
mod certificates;
#[path = "../tests/tunnels/streams.rs"]
#[expect(dead_code, unused_imports, reason = "the tests need more of it")]
mod streams;
#[path = "../tests/tunnels/world.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod world;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u64>().unwrap());
    let (first, seeds) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(1));
    for (name, case) in cases::CASES {
        let (mut passed, mut failed) = (Vec::new(), Vec::new());
        for seed in first..first + seeds {
            match std::panic::catch_unwind(|| case(seed)) {
                Ok(seconds) => passed.push(seconds),
                Err(_) => failed.push(seed),
            }
        }
        let longest = passed.iter().copied().fold(0.0, f64::max);
        println!(
            "{{\"case\": \"{name}\", \"passed\": {}, \"of\": {seeds}, \"longest_s\": {longest:.3}, \"failed_seeds\": {failed:?}}}",
            passed.len()
        );
    }
}
