//! Headers of the Simple Proxy Protocol: see `crates/fuzz/src/spp.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::SPP.run)(data));
