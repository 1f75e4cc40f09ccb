//! Probes: who sends them and who answers: see `crates/fuzz/src/probes.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::PROBES.run)(data));
