//! PROXY headers of version 2: see `crates/fuzz/src/proxy.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::PROXY_V2.run)(data));
