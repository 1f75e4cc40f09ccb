//! The table of UDP sessions: see `crates/fuzz/src/sessions.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::SESSIONS.run)(data));
