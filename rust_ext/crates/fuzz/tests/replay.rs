//! Every input that was ever worth keeping, replayed; and others at random.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../../wire/tests/common/headers.rs"]
mod headers;

use headers::{PROXY, SPP, Vector, vectors};
use l4proxy_fuzz::{PROXY_V1, PROXY_V2, TARGETS, Target};
use proptest::prelude::*;

fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = target.corpus();
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let file = entry.unwrap();
        (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())
    };
    files.map(read).collect()
}

#[test]
fn every_target_keeps_its_promises_for_all_of_its_corpus() {
    for target in &TARGETS {
        let corpus = corpus(target);
        assert!(corpus.len() >= 10, "{}: {} inputs", target.name, corpus.len());
        for (name, input) in &corpus {
            let kept = std::panic::catch_unwind(|| (target.run)(input));
            assert!(kept.is_ok(), "{}/{name}", target.name);
        }
    }
}

#[test]
fn every_target_keeps_its_promises_for_all_fixed_vectors() {
    for Vector { name, bytes, .. } in vectors(PROXY).into_iter().chain(vectors(SPP)) {
        for target in &TARGETS {
            let kept = std::panic::catch_unwind(|| (target.run)(&bytes));
            assert!(kept.is_ok(), "{} of {name}", target.name);
        }
    }
}

/// libFuzzer begins with them, too: what looks like them has crashed others.
#[test]
fn headers_that_crashed_others_are_among_the_seeds() {
    let seeds = [corpus(&PROXY_V1), corpus(&PROXY_V2)].concat();
    let is_known =
        |vector: &Vector| vector.name.starts_with("cve-") || vector.name.starts_with("haproxy-bug");
    let known: Vec<_> = vectors(PROXY).into_iter().filter(is_known).collect();
    assert_eq!(known.len(), 5);
    for Vector { name, bytes, .. } in known {
        assert!(seeds.contains(&(name.to_owned(), bytes)), "{name}");
    }
}

/// Small enough to be read again and again: `make fuzz` keeps few inputs.
#[test]
fn no_corpus_is_large() {
    for target in &TARGETS {
        let count = corpus(target).len();
        assert!(count <= 150, "{}: {count} inputs; `make fuzz` leaves fewer", target.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_keep_every_promise(bytes in prop::collection::vec(any::<u8>(), 0..1_000)) {
        for target in &TARGETS {
            (target.run)(&bytes);
        }
    }

    /// One byte of a known input is another: closer to what decides than bytes at random.
    #[test]
    fn a_changed_input_keeps_every_promise(
        which in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        for target in &TARGETS {
            let corpus = corpus(target);
            let (_, mut input) = which.get(&corpus).clone();
            if !input.is_empty() {
                *place.get_mut(&mut input) = byte;
            }
            (target.run)(&input);
        }
    }
}
