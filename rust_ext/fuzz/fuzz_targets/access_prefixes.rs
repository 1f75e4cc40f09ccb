//! Packed prefixes of access lists: see `src/access_prefixes.rs`.
#![no_main]

#[path = "../src/access_prefixes.rs"]
mod access_prefixes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| access_prefixes::check(data));
