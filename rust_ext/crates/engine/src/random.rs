//! Random numbers of one worker, fetched from the kernel in blocks: flow ids must not be guessable by other clients or peers.

use ring::rand::{SecureRandom, SystemRandom};

/// One fetch serves this many flows.
const BLOCK: usize = 1024;

/// Where the worker's random numbers come from.
pub(crate) struct Random {
    block: [u8; BLOCK],
    used: usize,
}

impl Random {
    pub(crate) fn new() -> Self {
        Self { block: [0; BLOCK], used: BLOCK }
    }

    /// Eight random bytes.
    pub(crate) fn next(&mut self) -> u64 {
        if self.used >= BLOCK {
            fill(&mut self.block);
            self.used = 0;
        }
        let mut number = [0; 8];
        number.copy_from_slice(&self.block[self.used..self.used + 8]);
        // What was used is not kept: a later leak of memory tells nothing about earlier flows.
        self.block[self.used..self.used + 8].fill(0);
        self.used += 8;
        u64::from_ne_bytes(number)
    }
}

/// Fill with random bytes of the kernel.
pub(crate) fn fill(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the kernel has random numbers once it has booted");
}

/// A hasher that nobody outside can predict.
pub(crate) fn hasher() -> ahash::RandomState {
    let mut random = Random::new();
    ahash::RandomState::with_seeds(random.next(), random.next(), random.next(), random.next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_differ_over_many_blocks() {
        let mut random = Random::new();
        let numbers: HashSet<_> = (0..10_000).map(|_| random.next()).collect();
        assert_eq!(numbers.len(), 10_000);
        assert!(!numbers.contains(&0));
    }
}
