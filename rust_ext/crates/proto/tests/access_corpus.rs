//! Replays what the fuzz target `access_prefixes` found worth keeping.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/src/access_prefixes.rs"]
mod access_prefixes;

#[test]
fn every_input_of_the_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/access_prefixes");
    let mut count = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        access_prefixes::check(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 20, "{count} inputs: the corpus is not where it should be");
}
