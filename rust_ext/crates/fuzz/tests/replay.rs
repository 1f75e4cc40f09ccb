//! Every input that was ever worth keeping, replayed; and others at random.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use l4proxy_fuzz::{TARGETS, Target};
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
