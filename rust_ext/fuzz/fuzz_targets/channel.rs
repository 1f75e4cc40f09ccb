//! Packets of the datagram channel: the header, and frames: see `crates/fuzz/src/channel.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (l4proxy_fuzz::CHANNEL.run)(data));
