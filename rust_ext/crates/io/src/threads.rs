//! What a worker thread does to itself at its start: block signals, take a name, stay on a core, be punctual.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::ffi::CString;
use std::io;
use std::num::NonZeroU64;

/// Blocks every signal in the calling thread, so that they all reach the main thread.
pub fn block_all_signals() -> io::Result<()> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initialises the set before `pthread_sigmask` reads it; the old mask is not asked for.
    let result = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut())
    };
    // This call returns the error instead of setting errno.
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Names the calling thread as `ps` and `perf` show it. The kernel keeps the first 15 bytes.
pub fn set_name(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    Ok(rustix::thread::set_name(&name)?)
}

/// The cores that the calling thread may run on, in order.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// Keeps the calling thread on one core.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Makes the calling thread's timed waits end when they should: by default the kernel may be 50 µs late to save wake-ups.
pub fn make_timers_exact() -> io::Result<()> {
    Ok(rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_takes_its_name_core_and_signal_mask() {
        std::thread::spawn(|| {
            set_name("l4proxy/worker-0-too-long").unwrap();
            let name = rustix::thread::name().unwrap();
            assert_eq!(name.to_str().unwrap(), "l4proxy/worker-");
            let core = *allowed_cores().unwrap().last().unwrap();
            pin_to_core(core).unwrap();
            assert_eq!(allowed_cores().unwrap(), [core]);
            make_timers_exact().unwrap();
            assert_eq!(rustix::thread::current_timer_slack().unwrap(), 1);
            block_all_signals().unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
            let blocked = u64::from_str_radix(blocked, 16).unwrap();
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
                assert_ne!(blocked & (1 << (signal - 1)), 0, "signal {signal}");
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_core_that_cannot_exist_is_refused() {
        assert!(pin_to_core(usize::MAX).is_err());
    }
}
