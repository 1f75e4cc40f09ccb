//! What all connections of one worker may hold in memory. Half of it is for bytes that peers send and nobody has read yet: each connection
//! is granted a window, and the windows together never exceed it. The other half is for bytes that are sent and that peers have not read:
//! until they are acknowledged QUIC keeps them, and the packets that carry them are kept as well, so that half of that half may be sent.
//!
//! Not counted: what each flow may have on its way in any case (`credit::FREE`), so that no flow is ever held up by others.

/// The ceiling of one worker.
#[derive(Debug)]
pub(crate) struct Memory {
    /// What windows may grow by, beside what each begins with.
    max_growth: u64,
    max_sending: u64,
    /// What a connection has from its beginning.
    least: u64,
    begun: u64,
    growth: u64,
    sending: u64,
}

/// A connection begins with at most this.
const LEAST: u64 = 256 << 10;

impl Memory {
    /// `bytes` for at most `max_connections`.
    pub(crate) fn new(bytes: u64, max_connections: usize) -> Self {
        let (receiving, connections) = (bytes / 2, (max_connections as u64).max(1));
        let least = (receiving / 2 / connections).min(LEAST);
        let (max_growth, max_sending) = (receiving - least * connections, bytes / 4);
        Self { max_growth, max_sending, least, begun: 0, growth: 0, sending: 0 }
    }

    /// The window that a connection begins with. There is room for as many as there may be connections.
    pub(crate) const fn least(&self) -> u64 {
        self.least
    }

    /// Takes up to `bytes` for the growth of a window, but at most half of what is left: somebody else may need it. What was got.
    pub(crate) fn grant(&mut self, bytes: u64) -> u64 {
        let got = bytes.min((self.max_growth - self.growth) / 2);
        self.growth += got;
        got
    }

    /// Takes the window that a connection begins with.
    pub(crate) fn begin(&mut self) {
        self.begun += self.least;
    }

    /// So much of what windows had grown by is free.
    pub(crate) fn give_back(&mut self, growth: u64) {
        self.growth -= growth;
    }

    /// A connection is no more that was granted so much in all.
    pub(crate) fn end(&mut self, granted: u64) {
        self.begun -= self.least;
        self.growth -= granted - self.least;
    }

    /// The window that each of `count` connections would have if all had the same.
    pub(crate) fn fair_share(&self, count: usize) -> u64 {
        self.least + self.max_growth / (count as u64).max(1)
    }

    /// What is granted to peers, in bytes.
    pub(crate) const fn granted(&self) -> u64 {
        self.begun + self.growth
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
        assert_eq!(memory.least(), 16 << 10);
        let mut windows = Vec::new();
        for _ in 0..1024 {
            memory.begin();
            windows.push(memory.least() + memory.grant(10 << 20));
        }
        assert!(memory.granted() <= 32 << 20 && memory.granted() > 31 << 20, "{memory:?}");
        assert_eq!(windows[..3], [8, 4, 2].map(|mebibytes| (mebibytes << 20) + (16 << 10)));
        memory.give_back(8 << 20);
        windows[0] -= 8 << 20;
        assert_eq!(memory.grant(1 << 20), 1 << 20, "what comes back is granted again");
        memory.give_back(1 << 20);
        for window in windows {
            memory.end(window);
        }
        assert_eq!(memory.granted(), 0);
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
