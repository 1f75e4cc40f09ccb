//! Frames that come in pieces, against a model: see `crates/fuzz/src/fragments.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::FRAGMENTS.run)(data));
