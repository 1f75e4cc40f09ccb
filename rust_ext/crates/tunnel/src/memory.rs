//! What all connections of one worker may hold in memory. Half of it is for bytes that peers send and nobody has read yet: each connection
//! is granted a window, and the windows together never exceed it. The other half is for bytes that are sent and that peers have not read:
//! until they are acknowledged QUIC keeps them, and the packets that carry them are kept as well, so that half of that half may be sent.
//!
//! Not counted: what each flow may have on its way in any case (`credit::FREE`), so that no flow is ever held up by others.

/// The ceiling of one worker.
#[derive(Debug)]
pub(crate) struct Memory {
    max_granted: u64,
    max_sending: u64,
    /// What a connection has from its beginning.
    least: u64,
    granted: u64,
    sending: u64,
}

/// A connection begins with at most this.
const LEAST: u64 = 256 << 10;

impl Memory {
    /// `bytes` for at most `max_connections`.
    pub(crate) fn new(bytes: u64, max_connections: usize) -> Self {
        let max_granted = bytes / 2;
        let least = (max_granted / (max_connections as u64).max(1)).min(LEAST);
        Self { max_granted, max_sending: bytes / 4, least, granted: 0, sending: 0 }
    }

    /// The window that a connection begins with. There is room for as many as there may be connections.
    pub(crate) const fn least(&self) -> u64 {
        self.least
    }

    /// Takes up to `bytes` for a window, but never the last eighth that others begin with; what was got.
    pub(crate) fn grant(&mut self, bytes: u64) -> u64 {
        let got = bytes.min((self.max_granted - self.granted) / 8 * 7);
        self.granted += got;
        got
    }

    /// Takes the window that a connection begins with.
    pub(crate) fn begin(&mut self) {
        self.granted += self.least;
    }

    /// A window, or a part of one, is no more.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        self.granted -= bytes;
    }

    /// The window that each of `count` connections would have if all had the same.
    pub(crate) fn fair_share(&self, count: usize) -> u64 {
        self.max_granted / (count as u64).max(1)
    }

    /// What is granted to peers, in bytes.
    pub(crate) const fn granted(&self) -> u64 {
        self.granted
    }

    /// What was sent and is not read, in bytes.
    pub(crate) const fn sending(&self) -> u64 {
        self.sending
    }

    /// What more may be sent.
    pub(crate) const fn free_to_send(&self) -> u64 {
        self.max_sending.saturating_sub(self.sending)
    }

    /// The bytes on their way to peers were so many and are so many.
    pub(crate) fn change_sending(&mut self, before: u64, after: u64) {
        self.sending = self.sending + after - before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_never_exceed_their_half_and_every_connection_gets_one() {
        let mut memory = Memory::new(64 << 20, 1024);
        assert_eq!(memory.least(), 32 << 10);
        let mut windows = Vec::new();
        for _ in 0..1024 {
            memory.begin();
            windows.push(memory.least());
        }
        assert_eq!(memory.granted(), 32 << 20);
        assert_eq!(memory.grant(1), 0);
        for window in windows {
            memory.give_back(window);
        }
        for _ in 0..1000 {
            memory.grant(16 << 20);
        }
        assert!(memory.granted() <= 32 << 20);
        assert_eq!(Memory::new(4 << 30, 16).least(), LEAST);
    }

    #[test]
    fn what_is_sent_is_bounded_by_what_is_free() {
        let mut memory = Memory::new(64 << 20, 1024);
        assert_eq!(memory.free_to_send(), 16 << 20);
        memory.change_sending(0, 10 << 20);
        assert_eq!((memory.free_to_send(), memory.sending()), (6 << 20, 10 << 20));
        memory.change_sending(10 << 20, 1 << 20);
        assert_eq!(memory.free_to_send(), 15 << 20);
    }
}
