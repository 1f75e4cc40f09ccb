//! Newtypes for the numbers that travel in packets, so that one cannot stand where another is meant.
//! How PoP, link and path ids follow from names is the control plane's work: here they are numbers.

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($number:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $number);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:0width$x}", self.0, width = size_of::<$number>() * 2)
            }
        }
    )*};
}

ids! {
    /// One PoP of the fleet: the first four bytes of SHA-256 of its name.
    PopId(u32);
    /// One directed link: the first four bytes of SHA-256 of its name.
    LinkId(u32);
    /// One path: the first four bytes of SHA-256 of its links' names joined by commas.
    PathId(u32);
    /// One segment of a source route: a random non-zero number that its owner drew for one outgoing link.
    Label(u32);
    /// One datagram channel, numbered by the PoP that receives on it.
    ChannelId(u32);
    /// One UDP session, numbered by its egress PoP, unique in its channel.
    SessionId(u32);
    /// One flow, drawn at random by its ingress PoP, the same at every PoP.
    FlowId(u64);
}
