//! Connection ids: byte 0 is the worker that chose the id, so that the kernel can hand each packet to its worker.
//!
//! The other seven bytes come from a keyed hash of a counter: unpredictable without the seed, never repeated, and the
//! same in every run of a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use noq_proto::{ConnectionId, ConnectionIdGenerator};
use ring::hmac;

/// One worker byte and seven others: the shortest id QUIC allows a client to choose.
const CID_LEN: usize = 8;

/// Where the connection ids of one worker come from. Clones share the counter.
#[derive(Clone)]
pub(crate) struct CidSource(Arc<Inner>);

struct Inner {
    worker: u8,
    key: hmac::Key,
    next: AtomicU64,
}

impl CidSource {
    pub(crate) fn new(worker: u8, seed: &[u8; 32]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
        Self(Arc::new(Inner { worker, key, next: AtomicU64::new(0) }))
    }

    pub(crate) fn generate(&self) -> ConnectionId {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let hash = hmac::sign(&self.0.key, &number.to_be_bytes());
        let mut bytes = [0; CID_LEN];
        bytes.copy_from_slice(&hash.as_ref()[..CID_LEN]);
        bytes[0] = self.0.worker;
        ConnectionId::new(&bytes)
    }
}

impl ConnectionIdGenerator for CidSource {
    fn generate_cid(&mut self) -> ConnectionId {
        self.generate()
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_name_their_worker_and_do_not_repeat() {
        let source = CidSource::new(3, &[7; 32]);
        let ids: HashSet<Vec<u8>> = (0..1000).map(|_| source.generate().to_vec()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == CID_LEN && id[0] == 3));
    }

    #[test]
    fn another_seed_gives_other_ids() {
        let ours = CidSource::new(0, &[1; 32]).generate();
        let theirs = CidSource::new(0, &[2; 32]).generate();
        assert_ne!(ours, theirs);
    }
}
