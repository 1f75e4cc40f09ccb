//! The worker's kernel pipes for spliced flows: few, taken when a flow has bytes to move, given back as soon as they are empty.

use l4proxy_io::splice::Pipe;

/// Most pipes of one worker. An unprivileged user has 1,024 of full size (`pipe-user-pages-soft`), after that tiny ones: four
/// workers stay within it. A flow that gets none is copied.
const MAX_PIPES: usize = 256;

/// Empty pipes that are kept for the next flow.
const MAX_IDLE: usize = 64;

/// The pipes of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    idle: Vec<Pipe>,
    /// Pipes that flows have.
    lent: usize,
}

impl Pipes {
    /// An empty pipe, if there may be one more.
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        if self.lent >= MAX_PIPES {
            return None;
        }
        let pipe = match self.idle.pop() {
            Some(pipe) => pipe,
            None => Pipe::new().ok()?,
        };
        self.lent += 1;
        Some(pipe)
    }

    /// Take a pipe back. One that still holds bytes of its flow is closed: they must never reach another.
    pub(crate) fn give_back(&mut self, pipe: Pipe) {
        self.lent = self.lent.saturating_sub(1);
        if pipe.held() == 0 && self.idle.len() < MAX_IDLE {
            self.idle.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_only_so_many_and_empty_ones_are_used_again() {
        let mut pipes = Pipes::default();
        let lent: Vec<_> = std::iter::from_fn(|| pipes.take()).collect();
        assert_eq!(lent.len(), MAX_PIPES);
        for pipe in lent {
            pipes.give_back(pipe);
        }
        assert_eq!((pipes.idle.len(), pipes.lent), (MAX_IDLE, 0));
        assert!(pipes.take().is_some());
        assert_eq!((pipes.idle.len(), pipes.lent), (MAX_IDLE - 1, 1));
    }

    #[test]
    fn a_pipe_with_bytes_in_it_serves_nobody_else() {
        let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut here, b"secret").unwrap();
        let mut pipes = Pipes::default();
        let mut pipe = pipes.take().unwrap();
        pipe.fill(&there, 6).unwrap();
        assert_eq!(pipe.held(), 6);
        pipes.give_back(pipe);
        assert!(pipes.idle.is_empty());
    }
}
