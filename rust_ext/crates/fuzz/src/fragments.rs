//! Fragments in any order against a model in plain lists: what is put together, what is dropped and why, and how much is kept. An input is a
//! row of steps of four bytes: `id and elapsed · index · count · length`.

use std::time::Duration;

use l4proxy_tunnel::DropReason;
use l4proxy_tunnel::fragments::{Outcome, Reassembly};
use l4proxy_wire::channel::Fragment;

use crate::at;

const MAX_STEPS: usize = 512;
/// As in docs/protocol.md and `tunnel::fragments`.
const MAX_INCOMPLETE: usize = 16;
const TIMEOUT_MS: u64 = 1_000;
const MAX_COUNT: u8 = 64;
const IDS: u8 = 24;

#[derive(Debug)]
struct Incomplete {
    id: u32,
    began_ms: u64,
    parts: Vec<Option<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct Model(Vec<Incomplete>);

impl Model {
    fn take(&mut self, now_ms: u64, piece: Fragment<'_>, drops: &mut Vec<DropReason>) -> Outcome {
        while self.0.first().is_some_and(|oldest| oldest.began_ms + TIMEOUT_MS <= now_ms) {
            self.0.remove(0);
            drops.push(DropReason::FragmentExpired);
        }
        if piece.count < 2 || piece.count > MAX_COUNT || piece.index >= piece.count {
            return Outcome::Dropped(DropReason::FragmentInvalid);
        }
        if !self.0.iter().any(|frame| frame.id == piece.id) {
            if self.0.len() == MAX_INCOMPLETE {
                self.0.remove(0);
                drops.push(DropReason::FragmentTableFull);
            }
            let parts = vec![None; piece.count.into()];
            self.0.push(Incomplete { id: piece.id, began_ms: now_ms, parts });
        }
        let place = self.0.iter().position(|frame| frame.id == piece.id).expect("it was made");
        let parts = &mut self.0[place].parts;
        if parts.len() != usize::from(piece.count) {
            return Outcome::Dropped(DropReason::FragmentInvalid);
        }
        if parts[usize::from(piece.index)].is_some() {
            return Outcome::Dropped(DropReason::FragmentDuplicate);
        }
        parts[usize::from(piece.index)] = Some(piece.bytes.to_vec());
        if parts.iter().any(Option::is_none) {
            return Outcome::Kept;
        }
        Outcome::Complete(self.0.remove(place).parts.into_iter().flatten().flatten().collect())
    }
}

/// One story.
pub(crate) fn run(bytes: &[u8]) {
    let (mut table, mut model, mut now_ms) = (Reassembly::default(), Model::default(), 0);
    for (number, step) in bytes.as_chunks::<4>().0.iter().take(MAX_STEPS).enumerate() {
        let [what, index, count, length] = *step;
        now_ms += u64::from(what / IDS) * 97;
        // No two pieces are alike.
        let payload: Vec<u8> = (0..length).map(|place| place ^ number as u8).collect();
        let piece = Fragment { id: u32::from(what % IDS), index, count, bytes: &payload };
        let (mut dropped, mut expected) = (Vec::new(), Vec::new());
        let outcome =
            table.handle_fragment(at(Duration::from_millis(now_ms)), piece, |reason| dropped.push(reason));
        assert_eq!(outcome, model.take(now_ms, piece, &mut expected));
        assert_eq!(dropped, expected);
    }
}
