//! Whether memory runs out, of the host or of the control group that this process lives in. Read by the control thread every second.
//!
//! Each flow takes memory of the kernel as well, so that what this process has says little; what is left says all.

use std::fs;

/// New flows are refused when less than this share of the memory is left: before the kernel begins to kill.
const SHORT_SHARE: u64 = 50;

/// They are let in again when twice as much is left: the border must not be crossed with every flow.
const WELL_FACTOR: u64 = 2;

/// Memory that there is and that could still be had, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) left: u64,
}

impl Memory {
    /// Whether it is short, given that it was (or was not) a moment ago.
    pub(crate) const fn is_short(self, was_short: bool) -> bool {
        let border = self.total / SHORT_SHARE;
        self.left < if was_short { border * WELL_FACTOR } else { border }
    }
}

/// What is left where least is left, relative to what there is; None: this system does not say.
pub(crate) fn look() -> Option<Memory> {
    let host = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_host(&text));
    let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| {
        let directory = format!("/sys/fs/cgroup{}", group_of(&text)?);
        let read = |name: &str| fs::read_to_string(format!("{directory}/{name}")).ok();
        of_group(&read("memory.max")?, &read("memory.current")?, &read("memory.stat")?)
    });
    [host, group]
        .into_iter()
        .flatten()
        .min_by(|one, other| (one.left * (other.total >> 20)).cmp(&(other.left * (one.total >> 20))))
}

fn of_host(meminfo: &str) -> Option<Memory> {
    let kilobytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { total: kilobytes("MemTotal")?, left: kilobytes("MemAvailable")? })
}

/// The path of a process in the unified hierarchy (cgroup v2).
fn group_of(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Pages of files that nobody has used lately are counted as used and can be had at once.
fn of_group(max: &str, current: &str, stat: &str) -> Option<Memory> {
    let total: u64 = max.trim().parse().ok()?;
    let used: u64 = current.trim().parse().ok()?;
    let stale = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let stale: u64 = stale.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
    Some(Memory { total, left: total.saturating_sub(used.saturating_sub(stale)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_short_below_a_border_and_well_again_at_twice_that() {
        let left = |left| Memory { total: 5_000, left };
        assert_eq!([99, 100, 150].map(|bytes| left(bytes).is_short(false)), [true, false, false]);
        assert_eq!([100, 199, 200].map(|bytes| left(bytes).is_short(true)), [true, true, false]);
    }

    #[test]
    fn the_host_says_what_it_has_and_what_could_be_had() {
        let text = "MemTotal:        2000 kB\nMemFree:          10 kB\nMemAvailable:    500 kB\n";
        assert_eq!(of_host(text), Some(Memory { total: 2_048_000, left: 512_000 }));
        for text in ["", "MemTotal: 1 kB\n", "MemTotal: x kB\nMemAvailable: 1 kB\n"] {
            assert_eq!(of_host(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_group_without_a_limit_has_none() {
        assert_eq!(
            group_of("1:memory:/old\n0::/system.slice/l4proxy.service\n"),
            Some("/system.slice/l4proxy.service")
        );
        assert_eq!(group_of("1:memory:/old\n"), None);
        assert_eq!(of_group("max\n", "5\n", ""), None);
        let stat = "anon 300\ninactive_file 100\n";
        assert_eq!(of_group("1000\n", "500\n", stat), Some(Memory { total: 1_000, left: 600 }));
        assert_eq!(of_group("1000\n", "1500\n", ""), Some(Memory { total: 1_000, left: 0 }));
    }

    #[test]
    fn this_host_has_some() {
        let memory = look().unwrap();
        assert!(memory.left <= memory.total && memory.total > 0);
    }
}
