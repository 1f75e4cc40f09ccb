//! Hellos, and the liveness of paths: see `crates/fuzz/src/hellos.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::HELLOS.run)(data));
