//! Running something inside a network namespace that somebody else made. The caller's own thread never moves.

use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A handle on a network namespace; it keeps the namespace alive.
#[derive(Debug)]
pub struct NetworkNamespace {
    fd: OwnedFd,
}

impl NetworkNamespace {
    /// Opens a namespace by path, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())? })
    }

    /// Runs `work` on a fresh thread inside the namespace and waits for it. Sockets made there stay there.
    ///
    /// # Errors
    /// The kernel's when entering is refused (it needs CAP_SYS_ADMIN over the namespace), or whatever `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_in_the_namespace_and_the_caller_stays_outside() {
        let here = || std::fs::read_link("/proc/thread-self/ns/net");
        let before = here().unwrap();
        // A namespace of its own, held only by the thread that unshares it and by our handle.
        let foreign = std::thread::spawn(|| {
            // SAFETY: only the network namespace of this short-lived thread changes; no memory or descriptors are shared out.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return None;
            }
            NetworkNamespace::open(Path::new("/proc/thread-self/ns/net")).ok()
        });
        let Some(foreign) = foreign.join().unwrap() else {
            return crate::skip("no right to make a network namespace");
        };
        let inside = foreign.run(here).unwrap();
        assert_ne!(inside, before);
        assert_eq!(here().unwrap(), before);
        assert!(foreign.run(|| Err::<(), _>(io::Error::other("own error"))).is_err());
    }

    #[test]
    fn what_is_not_a_namespace_is_refused() {
        assert!(NetworkNamespace::open(Path::new("/nonexistent")).is_err());
        let file = NetworkNamespace::open(Path::new("/proc/self/stat")).unwrap();
        assert!(file.run(|| Ok(())).is_err());
    }
}
