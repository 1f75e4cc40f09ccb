//! The worker's kernel pipes for spliced flows: few, taken when a flow has bytes to move, given back as soon as they are empty.

use l4proxy_io::splice::Pipe;

/// Most pipes of one worker. An unprivileged user has 1,024 of full size (`pipe-user-pages-soft`), after that tiny ones: four
/// workers stay within it. A flow that gets none is copied.
const MAX_PIPES: usize = 256;

/// Empty pipes of the usual size that are kept for the next flow.
const MAX_IDLE: usize = 64;

/// Pipes of a worker that may be wide. Each takes four pipes' share of what an unprivileged user has.
const MAX_WIDE: usize = 32;

/// What a wide pipe holds. For a flow that is woken for every few segments it is no faster than 64 kB, which stay in the cache; for one that
/// is polled it saves three of four pairs of system calls. Bytes.
const WIDE: usize = 256 * 1024;

/// The pipes of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    idle: Vec<Pipe>,
    idle_wide: Vec<Pipe>,
    /// Wide pipes that there are, lent or not.
    wide: usize,
    /// Pipes that flows have.
    lent: usize,
}

/// A pipe that a flow has.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) pipe: Pipe,
    is_wide: bool,
}

impl Pipes {
    /// An empty pipe, if there may be one more; a wide one if that is asked for and to be had.
    pub(crate) fn take(&mut self, wide: bool) -> Option<Lent> {
        if self.lent >= MAX_PIPES {
            return None;
        }
        let lent = match if wide { self.take_wide() } else { None } {
            Some(pipe) => Lent { pipe, is_wide: true },
            None => Lent { pipe: self.idle.pop().map_or_else(Pipe::new, Ok).ok()?, is_wide: false },
        };
        self.lent += 1;
        Some(lent)
    }

    fn take_wide(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle_wide.pop() {
            return Some(pipe);
        }
        if self.wide >= MAX_WIDE {
            return None;
        }
        let pipe = Pipe::new().ok()?;
        // Refused to a user who has many: a usual one does as well.
        pipe.grow(WIDE).ok()?;
        self.wide += 1;
        Some(pipe)
    }

    /// Take a pipe back. One that still holds bytes of its flow is closed: they must never reach another.
    pub(crate) fn give_back(&mut self, lent: Lent) {
        self.lent = self.lent.saturating_sub(1);
        let Lent { pipe, is_wide } = lent;
        let is_empty = pipe.held() == 0;
        match (is_wide, is_empty) {
            (true, true) => self.idle_wide.push(pipe),
            (true, false) => self.wide = self.wide.saturating_sub(1),
            (false, true) if self.idle.len() < MAX_IDLE => self.idle.push(pipe),
            (false, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_only_so_many_and_empty_ones_are_used_again() {
        let mut pipes = Pipes::default();
        let lent: Vec<_> = std::iter::from_fn(|| pipes.take(false)).collect();
        assert_eq!(lent.len(), MAX_PIPES);
        for pipe in lent {
            pipes.give_back(pipe);
        }
        assert_eq!((pipes.idle.len(), pipes.lent), (MAX_IDLE, 0));
        assert!(pipes.take(false).is_some());
        assert_eq!((pipes.idle.len(), pipes.lent), (MAX_IDLE - 1, 1));
    }

    #[test]
    fn wide_ones_are_few_and_after_them_come_usual_ones() {
        let mut pipes = Pipes::default();
        let lent: Vec<_> = (0..MAX_WIDE + 2).filter_map(|_| pipes.take(true)).collect();
        let wide = lent.iter().filter(|lent| lent.is_wide).count();
        assert_eq!((lent.len(), wide), (MAX_WIDE + 2, MAX_WIDE));
        assert!(lent.iter().all(|lent| !lent.is_wide || lent.pipe.capacity().unwrap() >= WIDE));
        for pipe in lent {
            pipes.give_back(pipe);
        }
        assert_eq!((pipes.idle_wide.len(), pipes.idle.len(), pipes.lent), (MAX_WIDE, 2, 0));
        assert!(pipes.take(true).is_some_and(|lent| lent.is_wide));
    }

    #[test]
    fn a_pipe_with_bytes_in_it_serves_nobody_else() {
        for wide in [false, true] {
            let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
            std::io::Write::write_all(&mut here, b"secret").unwrap();
            let mut pipes = Pipes::default();
            let mut lent = pipes.take(wide).unwrap();
            lent.pipe.fill(&there, 6).unwrap();
            assert_eq!(lent.pipe.held(), 6);
            pipes.give_back(lent);
            assert!(pipes.idle.is_empty() && pipes.idle_wide.is_empty());
            assert_eq!(pipes.wide, 0);
        }
    }
}
