//! UDP flows of two PoPs, against a model: see `crates/fuzz/src/flows.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::FLOWS.run)(data));
