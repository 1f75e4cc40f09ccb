//! Readiness: epoll with 64-bit tokens and timeouts finer than a millisecond, and a waker for other threads. It keeps no list of what is registered.

use rustix::event::{EventfdFlags, Timespec, epoll as sys, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to be told about. Hang-up and error are always reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest(sys::EventFlags);

impl Interest {
    /// Nothing but hang-up and error.
    pub const NONE: Self = Self(sys::EventFlags::empty());
    /// There is something to read, or the other end has closed its direction.
    pub const READ: Self = Self(sys::EventFlags::IN.union(sys::EventFlags::RDHUP));
    /// There is room to write.
    pub const WRITE: Self = Self(sys::EventFlags::OUT);
    /// Both.
    pub const READ_WRITE: Self = Self(Self::READ.0.union(Self::WRITE.0));

    /// Reports only changes: whoever is told must go on until "would block".
    #[must_use]
    pub const fn edge_triggered(self) -> Self {
        Self(self.0.union(sys::EventFlags::ET))
    }
}

/// One epoll instance, used by one thread.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    /// Whether the kernel has `epoll_pwait2` (5.11); learnt at the first refusal.
    fine: AtomicBool,
}

impl Epoll {
    /// A new, empty instance.
    pub fn new() -> io::Result<Self> {
        let fd = sys::create(sys::CreateFlags::CLOEXEC)?;
        Ok(Self { fd, fine: AtomicBool::new(true) })
    }

    /// Whether waits end within microseconds of their timeout. Old kernels say at the first wait that they cannot.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.fine.load(Ordering::Relaxed)
    }

    /// Starts to watch a descriptor; `token` comes back with its events. Closing the descriptor ends the watch.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(sys::add(&self.fd, fd, sys::EventData::new_u64(token), interest.0)?)
    }

    /// Changes what is watched, and the token.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(sys::modify(&self.fd, fd, sys::EventData::new_u64(token), interest.0)?)
    }

    /// Ends a watch.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(sys::delete(&self.fd, fd)?)
    }

    /// Waits until something is ready or `timeout` has passed (`None`: for ever), fills `events` and returns how many there are.
    ///
    /// A signal ends the wait with no events. Kernels before 5.11 round the timeout up to a millisecond.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<usize> {
        events.list.clear();
        let mut result = Err(Errno::NOSYS);
        if let Some(timeout) = timeout
            && self.fine.load(Ordering::Relaxed)
        {
            result = self.wait_finely(events, &timespec(timeout));
            // Old kernels and strict seccomp profiles refuse the newer call.
            self.fine.store(!matches!(result, Err(Errno::NOSYS | Errno::PERM)), Ordering::Relaxed);
        }
        if let Err(Errno::NOSYS | Errno::PERM) = result {
            let room = rustix::buffer::spare_capacity(&mut events.list);
            result = sys::wait(&self.fd, room, timeout.map(round_up).as_ref());
        }
        match result {
            Err(Errno::INTR) => Ok(0),
            other => Ok(other?),
        }
    }

    /// `epoll_pwait2`, which rustix calls only where it can do without `epoll_pwait`, and the C library only since glibc 2.35.
    fn wait_finely(&self, events: &mut Events, timeout: &Timespec) -> Result<usize, Errno> {
        let room = events.list.spare_capacity_mut();
        let (start, count) = (room.as_mut_ptr(), i32::try_from(room.len()).unwrap_or(i32::MAX));
        let no_mask: *const libc::sigset_t = std::ptr::null();
        // SAFETY: `start` is room for `count` events (rustix gives them the kernel's layout), the timeout is a live kernel timespec, and
        // the kernel initialises as many events as it returns, which becomes the length.
        unsafe {
            let fd = self.fd.as_raw_fd();
            let ready = libc::syscall(
                libc::SYS_epoll_pwait2,
                fd,
                start,
                count,
                std::ptr::from_ref(timeout),
                no_mask,
                0usize,
            );
            let ready = usize::try_from(ready)
                .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))?;
            events.list.set_len(ready);
            Ok(ready)
        }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Whole milliseconds, never early: a timer that is woken too soon would spin.
fn round_up(duration: Duration) -> Timespec {
    let milliseconds = duration.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as u64;
    timespec(Duration::from_millis(milliseconds))
}

/// Room for the events of one wait.
pub struct Events {
    list: Vec<sys::Event>,
}

impl Events {
    /// Room for `capacity` events (at least one); more than that wait for the next turn.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { list: Vec::with_capacity(capacity.max(1)) }
    }

    /// The events of the last wait.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Event> + '_ {
        self.list.iter().map(|event| Event { token: event.data.u64(), flags: event.flags })
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

/// One descriptor's readiness.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// The token given at registration.
    pub token: u64,
    flags: sys::EventFlags,
}

impl Event {
    /// There is something to read (bytes, a connection, or the end of the stream).
    #[must_use]
    pub fn readable(self) -> bool {
        self.flags.contains(sys::EventFlags::IN)
    }

    /// There is room to write, or a connect has finished.
    #[must_use]
    pub fn writable(self) -> bool {
        self.flags.contains(sys::EventFlags::OUT)
    }

    /// Both directions are closed.
    #[must_use]
    pub fn hang_up(self) -> bool {
        self.flags.contains(sys::EventFlags::HUP)
    }

    /// The other end has closed its direction; bytes may still be waiting.
    #[must_use]
    pub fn read_hang_up(self) -> bool {
        self.flags.contains(sys::EventFlags::RDHUP)
    }

    /// An error is pending: fetch it with the socket's next call or `take_error`.
    #[must_use]
    pub fn error(self) -> bool {
        self.flags.contains(sys::EventFlags::ERR)
    }
}

/// Lets another thread end a wait. Share it in an `Arc`; register it like any descriptor.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
}

impl Waker {
    /// A waker that nobody has woken.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Makes the descriptor readable. Wakes that come before the next [`Waker::reset`] merge into one.
    pub fn wake(&self) -> io::Result<()> {
        match rustix::io::write(&self.fd, &1u64.to_ne_bytes()) {
            // A full counter is as readable as can be.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes the wake back; true if there was one.
    pub fn reset(&self) -> io::Result<bool> {
        let mut count = [0u8; 8];
        Ok(crate::unless_blocked(rustix::io::read(&self.fd, &mut count))?.is_some())
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_waker_ends_the_wait_of_another_thread_and_can_be_reset() {
        let epoll = Epoll::new().unwrap();
        let waker = Waker::new().unwrap();
        epoll.add(&waker, 7, Interest::READ).unwrap();
        let mut events = Events::with_capacity(4);
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake().unwrap());
            assert_eq!(epoll.wait(&mut events, Some(Duration::from_secs(10))).unwrap(), 1);
        });
        let event = events.iter().next().unwrap();
        assert_eq!((event.token, event.readable(), event.writable()), (7, true, false));
        assert!(waker.reset().unwrap());
        assert!(!waker.reset().unwrap());
        assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
    }

    #[test]
    fn a_timeout_below_a_millisecond_is_neither_early_nor_rounded_up() {
        let epoll = Epoll::new().unwrap();
        let mut events = Events::with_capacity(1);
        let wanted = Duration::from_micros(250);
        let mut shortest = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            assert_eq!(epoll.wait(&mut events, Some(wanted)).unwrap(), 0);
            shortest = shortest.min(start.elapsed());
        }
        assert!(shortest >= wanted);
        assert!(!epoll.fine.load(Ordering::Relaxed) || shortest < Duration::from_millis(1), "{shortest:?}");
    }

    #[test]
    fn an_edge_is_reported_once_and_a_level_again_and_again() {
        let epoll = Epoll::new().unwrap();
        let waker = Waker::new().unwrap();
        let mut events = Events::with_capacity(4);
        epoll.add(&waker, 1, Interest::READ.edge_triggered()).unwrap();
        waker.wake().unwrap();
        let mut wait = || epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!((wait(), wait()), (1, 0));
        epoll.modify(&waker, 2, Interest::READ).unwrap();
        assert_eq!((wait(), wait()), (1, 1));
        epoll.remove(&waker).unwrap();
        assert_eq!(wait(), 0);
    }

    #[test]
    fn a_half_closed_stream_is_told_from_a_hung_up_one() {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        let mut events = Events::with_capacity(4);
        epoll.add(&here, 3, Interest::READ_WRITE).unwrap();
        there.shutdown(std::net::Shutdown::Write).unwrap();
        epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        let event = events.iter().next().unwrap();
        assert!(
            event.readable()
                && event.read_hang_up()
                && event.writable()
                && !event.hang_up()
                && !event.error()
        );
        drop(there);
        epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.iter().next().unwrap().hang_up());
    }

    #[test]
    fn more_ready_descriptors_than_room_wait_for_the_next_turn() {
        let epoll = Epoll::new().unwrap();
        let wakers: Vec<_> = (0..5).map(|_| Waker::new().unwrap()).collect();
        for (token, waker) in (0u64..).zip(&wakers) {
            epoll.add(waker, token, Interest::READ.edge_triggered()).unwrap();
            waker.wake().unwrap();
        }
        let mut events = Events::with_capacity(2);
        let mut seen = Vec::new();
        for expected in [2, 2, 1, 0] {
            assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), expected);
            seen.extend(events.iter().map(|event| event.token));
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn rounding_a_timeout_never_makes_it_shorter() {
        assert_eq!(round_up(Duration::from_nanos(1)), timespec(Duration::from_millis(1)));
        assert_eq!(round_up(Duration::from_millis(3)), timespec(Duration::from_millis(3)));
        assert_eq!(round_up(Duration::ZERO), timespec(Duration::ZERO));
    }
}
