//! Messages of streams: control, OPEN and its answers, stripes: see `crates/fuzz/src/streams.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::STREAMS.run)(data));
