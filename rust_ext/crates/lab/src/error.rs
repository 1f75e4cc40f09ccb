//! What can go wrong with an emulator. Packets never are an error: they are counted by reason.

use std::net::IpAddr;

/// Why an emulator cannot be made, changed or run. All of these are the caller's or the machine's fault; retrying as is does not help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A ratio outside 0 to 1.
    #[error("{field} is {value}, not a ratio between 0 and 1")]
    Ratio {
        /// Which property.
        field: &'static str,
        /// What it was.
        value: f64,
    },
    /// Burst loss that two states cannot produce: so much loss needs longer bursts.
    #[error("bursts of {packets} packets cannot lose a share of {ratio}: at most {max:.3}")]
    Burst {
        /// Mean burst length, packets.
        packets: f64,
        /// Share of packets to be lost in bursts.
        ratio: f64,
        /// Largest share that such bursts can lose.
        max: f64,
    },
    /// A rate or queue of zero: nothing would ever pass.
    #[error("{field} is zero: use cut to stop a link")]
    Zero {
        /// Which property.
        field: &'static str,
    },
    /// A delay or jitter beyond what the schedule keeps apart from an error of units.
    #[error("{field} is {value_ns} ns, above the maximum of {max_ns}")]
    TooLong {
        /// Which property.
        field: &'static str,
        /// What it was.
        value_ns: u64,
        /// The limit.
        max_ns: u64,
    },
    /// A link names a host that is not there.
    #[error("link {link}: there is no host number {host}")]
    NoHost {
        /// The link's name.
        link: String,
        /// The host's index.
        host: usize,
    },
    /// Two links claim the same pair of addresses.
    #[error("links {first} and {second} both carry {source_address} to {destination_address}")]
    SamePair {
        /// The link that was there.
        first: String,
        /// The link that came.
        second: String,
        /// Source address of both.
        source_address: IpAddr,
        /// Destination address of both.
        destination_address: IpAddr,
    },
    /// No link has this name.
    #[error("no link is called {name}")]
    NoLink {
        /// The name asked for.
        name: String,
    },
    /// Two links have one name.
    #[error("two links are called {name}")]
    SameName {
        /// The name.
        name: String,
    },
    /// More hosts or links than an emulator takes.
    #[error("{count} {what}, above the maximum of {max}")]
    TooMany {
        /// Hosts or links.
        what: &'static str,
        /// How many were asked for.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The kernel refused a device, a namespace or a thread.
    #[error("host {host}: {doing}: {source}")]
    Device {
        /// Whose device.
        host: String,
        /// What was attempted.
        doing: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel refused something that belongs to no one host.
    #[error("{doing}: {source}")]
    System {
        /// What was attempted.
        doing: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Whose fault an error is, for callers who only want to know that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The kernel's refusal, with its errno if it gave one.
    System(Option<i32>),
    /// A link that is not there.
    UnknownLink,
    /// A value that cannot be had.
    Value,
}

impl LabError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Device { source, .. } | Self::System { source, .. } => Fault::System(source.raw_os_error()),
            Self::NoLink { .. } => Fault::UnknownLink,
            Self::Ratio { .. }
            | Self::Burst { .. }
            | Self::Zero { .. }
            | Self::TooLong { .. }
            | Self::NoHost { .. }
            | Self::SamePair { .. }
            | Self::SameName { .. }
            | Self::TooMany { .. } => Fault::Value,
        }
    }
}
