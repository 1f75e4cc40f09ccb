//! Packets that pass this PoP, against the rules: see `crates/fuzz/src/outer.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::OUTER.run)(data));
