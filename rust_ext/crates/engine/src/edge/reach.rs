//! One connect towards an origin: whether its address may be dialled at all, from which source, and what a failure is counted as.
//! The same for TCP and UDP, for clients that came here and for those of other PoPs.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use l4proxy_io::source::{ConnectError, Source, connect_tcp, connect_udp, is_own_address};
use l4proxy_io::udp::UdpSocket;
use l4proxy_proto::origin_guard::{self, Denied};
use l4proxy_proto::source_pool::SourcePool;

use super::ending::DialFailure;
use crate::app::{App, Listen, Origin};
use crate::counters::Dropped;
use crate::policy::{AnnounceTcp, AnnounceUdp};
use crate::snapshot::Protocol;
use crate::turn::Turn;

/// How an app's origins are reached.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Source addresses; none: the kernel chooses.
    pub(crate) pool: Option<SourcePool>,
    /// Names may lead to private networks.
    pub(crate) allow_private: bool,
}

/// Why there is no socket.
#[derive(Debug)]
pub(crate) enum Unreached {
    /// It was not even tried, or not from the source that it must come from.
    Refused(Dropped, DialFailure),
    /// The kernel says why.
    Failed(io::Error),
}

impl Unreached {
    /// What the next attempt and the flow's record are told.
    pub(crate) fn failure(&self) -> DialFailure {
        match self {
            Self::Refused(_, failure) => *failure,
            Self::Failed(error) => DialFailure::of(error),
        }
    }
}

/// Begin to connect to an address of one of the app's origins over TCP.
pub(crate) fn dial_tcp(
    app: &App,
    origin: usize,
    address: SocketAddr,
    client: SocketAddr,
    turn: &Turn<'_>,
) -> Result<OwnedFd, Unreached> {
    dial(Protocol::Tcp, app, origin, address, client, turn, connect_tcp)
}

/// The same over UDP.
pub(crate) fn dial_udp(
    app: &App,
    origin: usize,
    address: SocketAddr,
    client: SocketAddr,
    turn: &Turn<'_>,
) -> Result<UdpSocket, Unreached> {
    dial(Protocol::Udp, app, origin, address, client, turn, connect_udp)
}

fn dial<T: AsFd>(
    protocol: Protocol,
    app: &App,
    origin: usize,
    address: SocketAddr,
    client: SocketAddr,
    turn: &Turn<'_>,
    connect: impl Fn(SocketAddr, Source) -> Result<T, ConnectError>,
) -> Result<T, Unreached> {
    check(protocol, app, &app.origins[origin], address, turn)
        .map_err(|denied| Unreached::Refused(dropped_of(denied), DialFailure::Denied))?;
    let connected = from_sources(protocol, app, address, client, turn, connect)?;
    if turn.shared.is_reserved(&connected) {
        return Err(Unreached::Refused(Dropped::FdLimit, DialFailure::Shortage));
    }
    Ok(connected)
}

/// What a name led to is other people's word; an address in the app file is the operator's.
fn check(
    protocol: Protocol,
    app: &App,
    origin: &Origin,
    address: SocketAddr,
    turn: &Turn<'_>,
) -> Result<(), Denied> {
    if !origin.is_name {
        return Ok(());
    }
    origin_guard::check(address.ip(), app.reach.allow_private)?;
    if is_own_listener(&turn.tables.own_listens, protocol, address, is_own_address) {
        return Err(Denied::OwnListener);
    }
    Ok(())
}

/// Whether a flow to `address` would come back to one of our listeners. Which addresses are this host's is asked only where a listener
/// of all addresses has that port.
fn is_own_listener(
    listens: &[Listen],
    protocol: Protocol,
    address: SocketAddr,
    is_own: impl Fn(IpAddr) -> bool,
) -> bool {
    let ip = address.ip().to_canonical();
    let mut same = listens.iter().filter(|listen| listen.has_port(protocol, address.port()));
    same.clone().any(|listen| listen.address == ip)
        || (same.any(|listen| listen.address.is_unspecified()) && is_own(ip))
}

fn from_sources<T>(
    protocol: Protocol,
    app: &App,
    address: SocketAddr,
    client: SocketAddr,
    turn: &Turn<'_>,
    connect: impl Fn(SocketAddr, Source) -> Result<T, ConnectError>,
) -> Result<T, Unreached> {
    let is_transparent = match protocol {
        Protocol::Tcp => app.policy.announce_tcp == AnnounceTcp::Transparent,
        Protocol::Udp => app.policy.announce_udp == AnnounceUdp::Transparent,
    };
    if is_transparent {
        return connect(address, Source::Client(client)).map_err(unreached);
    }
    let Some(pool) = &app.reach.pool else { return connect(address, Source::Any).map_err(unreached) };
    let mut last = ConnectError::OtherFamily;
    for ip in pool.choose(client.ip(), address.is_ipv6()).into_iter().flatten() {
        match connect(address, Source::Address(ip)) {
            // The client's own address is not here (any more): its next one, and `status` says so.
            Err(error @ ConnectError::NotLocal(_)) => {
                turn.drop(Dropped::SourceNotLocal);
                last = error;
            }
            other => return other.map_err(unreached),
        }
    }
    Err(unreached(last))
}

fn unreached(error: ConnectError) -> Unreached {
    let refused = |reason| Unreached::Refused(reason, DialFailure::NoSource);
    match error {
        ConnectError::NotPermitted => refused(Dropped::SourceNotPermitted),
        ConnectError::OtherFamily => refused(Dropped::SourceOtherFamily),
        ConnectError::NotLocal(_) => refused(Dropped::SourceExhausted),
        ConnectError::Failed(error) if l4proxy_io::tcp::is_local_shortage(&error) => {
            Unreached::Refused(Dropped::FdLimit, DialFailure::Shortage)
        }
        ConnectError::Failed(error) => Unreached::Failed(error),
        // The list may grow.
        _ => refused(Dropped::SourceExhausted),
    }
}

const fn dropped_of(denied: Denied) -> Dropped {
    match denied {
        Denied::Unspecified => Dropped::OriginUnspecified,
        Denied::Loopback => Dropped::OriginLoopback,
        Denied::LinkLocal => Dropped::OriginLinkLocal,
        Denied::Metadata => Dropped::OriginMetadata,
        Denied::Multicast => Dropped::OriginMulticast,
        Denied::Broadcast => Dropped::OriginBroadcast,
        Denied::Reserved => Dropped::OriginReserved,
        Denied::Private => Dropped::OriginPrivate,
        Denied::OwnListener => Dropped::OriginOwnListener,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(protocol: Protocol, address: &str, first: u16, last: u16) -> Listen {
        Listen { protocol, address: address.parse().unwrap(), first, last }
    }

    #[test]
    fn a_flow_that_would_come_back_is_found_by_protocol_port_and_address() {
        let listens = [
            listen(Protocol::Tcp, "::", 1000, 1009),
            listen(Protocol::Udp, "192.0.2.1", 2000, 2000),
            listen(Protocol::Tcp, "2001:db8::1", 3000, 3000),
        ];
        let own: IpAddr = "192.0.2.1".parse().unwrap();
        let rows = [
            (Protocol::Tcp, "192.0.2.1:1009", true),
            (Protocol::Tcp, "[::ffff:192.0.2.1]:1000", true),
            (Protocol::Tcp, "192.0.2.2:1009", false),
            (Protocol::Tcp, "192.0.2.1:1010", false),
            (Protocol::Udp, "192.0.2.1:1009", false),
            (Protocol::Udp, "192.0.2.1:2000", true),
            (Protocol::Udp, "192.0.2.2:2000", false),
            (Protocol::Tcp, "[2001:db8::1]:3000", true),
            (Protocol::Tcp, "[2001:db8::2]:3000", false),
        ];
        for (protocol, address, expected) in rows {
            let found = is_own_listener(&listens, protocol, address.parse().unwrap(), |ip| ip == own);
            assert_eq!(found, expected, "{protocol:?} {address}");
        }
    }

    #[test]
    fn the_kernel_is_asked_only_where_it_matters() {
        let listens =
            [listen(Protocol::Tcp, "::", 1000, 1000), listen(Protocol::Tcp, "192.0.2.1", 2000, 2000)];
        let never = |_| panic!("asked in vain");
        assert!(!is_own_listener(&listens, Protocol::Tcp, "192.0.2.1:1001".parse().unwrap(), never));
        assert!(is_own_listener(&listens, Protocol::Tcp, "192.0.2.1:2000".parse().unwrap(), never));
    }
}
