//! How the C library's allocator deals with the kernel. What is allocated is everybody's own business.

use std::io;

/// Keeps up to `bytes` that were freed at the end of a thread's heap, and takes what is smaller than a quarter of them from a heap, instead
/// of giving memory back to the kernel at once and getting it again with a page fault for every 4 kB: a buffer that comes and goes with
/// each turn otherwise costs more there than what is written to it. The C library's default is 128 kB for both (mallopt(3)). Nothing is
/// done where the C library is not GNU's.
///
/// # Errors
/// The C library refuses; it goes on as before.
pub fn keep_freed(bytes: usize) -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    {
        let bytes = libc::c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: each takes two numbers and changes a setting of the allocator, under the allocator's own lock.
        let taken = unsafe {
            // To set the one ends the library's own choice of the other.
            [libc::mallopt(libc::M_TRIM_THRESHOLD, bytes), libc::mallopt(libc::M_MMAP_THRESHOLD, bytes / 4)]
        };
        if taken.contains(&0) {
            return Err(io::ErrorKind::Unsupported.into());
        }
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = bytes;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_the_setting_is_taken_and_more_is_refused() {
        keep_freed(1 << 20).unwrap();
        if cfg!(target_env = "gnu") {
            assert_eq!(keep_freed(usize::MAX).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
