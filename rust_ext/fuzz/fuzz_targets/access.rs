//! Access lists: see `crates/fuzz/src/access.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::ACCESS.run)(data));
