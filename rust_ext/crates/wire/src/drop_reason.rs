//! Why a packet is dropped. One list for the whole overlay, so that a reason is counted under the same name
//! everywhere; `tests/names.rs` compares it with `docs/protocol.md`.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a packet from the overlay port was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// How many reasons there are: the length of an array of counters.
            pub const COUNT: usize = Self::ALL.len();

            /// The name it is counted under.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// The first byte is none of ours, or there is none.
    UnknownType = "unknown_type",

    /// Shorter than its outer header and one inner byte.
    OuterTruncated = "outer_truncated",
    /// An outer header of another version.
    OuterVersion = "outer_version",
    /// No label, more than three, or a pointer beyond the last.
    OuterLabels = "outer_labels",
    /// No key of that epoch with the previous hop, or none with the next hop.
    OuterNoKey = "outer_no_key",
    /// The tag is not that of the previous hop.
    OuterTag = "outer_tag",
    /// The label at the pointer is not (or no longer) one of this PoP.
    OuterUnknownLabel = "outer_unknown_label",
    /// The source route comes back to where it has been.
    OuterLoop = "outer_loop",
    /// The inner packet is one that never travels inside another: an outer header or a probe.
    OuterNested = "outer_nested",

    /// Shorter than the channel header and the AEAD tag.
    ChannelTruncated = "channel_truncated",
    /// A channel header of another version, or with a reserved byte set.
    ChannelVersion = "channel_version",
    /// No channel of that id here.
    ChannelUnknown = "channel_unknown",
    /// The counter was received before.
    ChannelReplayed = "channel_replayed",
    /// The counter is older than the replay window.
    ChannelOld = "channel_old",
    /// The AEAD refused it.
    ChannelAuth = "channel_auth",
    /// A frame that cannot be decoded; the frames before it in the packet were taken.
    ChannelFrame = "channel_frame",

    /// A hello shorter or longer than its report count says.
    HelloTruncated = "hello_truncated",
    /// A hello of another version, with a reserved byte set, or with more than four reports.
    HelloVersion = "hello_version",
    /// No probe key of that epoch with the source.
    HelloNoKey = "hello_no_key",
    /// The tag is not the source's.
    HelloTag = "hello_tag",
    /// Heard before, too old, or made with a key that a later hello of the peer has replaced.
    HelloReplayed = "hello_replayed",
    /// More peers or paths than are followed.
    HelloFull = "hello_full",

    /// A probe that is not 48 bytes long.
    ProbeTruncated = "probe_truncated",
    /// Neither request nor reply, or with a reserved field set.
    ProbeKind = "probe_kind",
    /// No probe key of that epoch with the peer.
    ProbeNoKey = "probe_no_key",
    /// The tag is not the peer's.
    ProbeTag = "probe_tag",
    /// The link does not exist, or not with this peer.
    ProbeLink = "probe_link",
    /// A request seen before, or a reply to nothing that is outstanding.
    ProbeReplayed = "probe_replayed",
    /// A reply to a request that was already given up as lost.
    ProbeLate = "probe_late",
    /// A reply whose times cannot be: residence longer than the whole, or a clock that stepped.
    ProbeImpossible = "probe_impossible",

    /// A LINK_DOWN shorter or longer than its label count says.
    LinkDownTruncated = "link_down_truncated",
    /// A LINK_DOWN of another version, with a reserved byte set, without labels or with more than three.
    LinkDownVersion = "link_down_version",
    /// No probe key of that epoch with the neighbour that it came from.
    LinkDownNoKey = "link_down_no_key",
    /// The tag is not that of this neighbour, or it names another PoP as its source.
    LinkDownTag = "link_down_tag",
    /// Its number is not above the newest of that neighbour.
    LinkDownReplayed = "link_down_replayed",
    /// More from one neighbour than a fleet in trouble has to say.
    LinkDownLimited = "link_down_limited",
}

impl DropReason {
    /// Its place in [`DropReason::ALL`], below [`DropReason::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_finds_its_reason_again() {
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
        assert_eq!(DropReason::COUNT, DropReason::LinkDownLimited.index() + 1);
    }

    #[test]
    fn no_two_reasons_share_a_name() {
        let names: std::collections::BTreeSet<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
    }
}
