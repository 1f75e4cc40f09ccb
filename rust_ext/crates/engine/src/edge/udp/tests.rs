//! What a session takes beside its socket.

use std::time::Instant;

use l4proxy_proto::sessions::Session;
use l4proxy_proto::sessions::sources::Source;

use super::{Key, State};
use crate::edge::dial::Attempt;
use crate::records::FlowMeta;

/// A kilobyte, so that 100,000 idle players are 100 MB beside what the kernel takes for their sockets.
const BOUND: usize = 1_000;

#[test]
fn an_idle_session_takes_less_than_a_kilobyte_beside_its_socket() {
    // A place in the table of sessions (with the slab's own word), one in the table of states, and in the heap of deadlines. These
    // tables double, but places that were never used are pages that were never touched.
    let deadline = size_of::<(Instant, u32)>() + size_of::<u32>();
    let places = size_of::<Session<Key>>() + size_of::<usize>() + size_of::<Option<State>>() + deadline;
    // The index is spread over all its places, of which at least 7/16 are in use: a number and a byte of the hash each.
    let index = (size_of::<u32>() + 1) * 16 / 7;
    // Of its own: the one way to its origin, and the count of its source, spread like the index.
    let own = size_of::<Attempt>() + (size_of::<(Source, u32)>() + 1) * 16 / 7;
    let together = places + index + own;
    assert!(
        together <= BOUND,
        "{together} B: session {}, state {} (its record {}), attempt {}",
        size_of::<Session<Key>>(),
        size_of::<Option<State>>(),
        size_of::<FlowMeta>(),
        size_of::<Attempt>(),
    );
}
