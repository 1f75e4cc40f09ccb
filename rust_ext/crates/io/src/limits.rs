//! The limit on open files: read it, raise it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// How many files this process may have open, and up to where it may raise that itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit in force; `u64::MAX` means none.
    pub soft: u64,
    /// The most it may be raised to.
    pub hard: u64,
}

/// The limits in force.
#[must_use]
pub fn open_files() -> OpenFiles {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    OpenFiles { soft: current.unwrap_or(u64::MAX), hard: maximum.unwrap_or(u64::MAX) }
}

/// Raises the limit to what is allowed and returns what is then in force.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(open_files())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_reaches_the_hard_limit() {
        let before = open_files();
        let after = raise_open_files().unwrap();
        assert!(before.soft <= after.soft);
        assert_eq!(after.soft, after.hard);
        assert_eq!(open_files(), after);
    }
}
