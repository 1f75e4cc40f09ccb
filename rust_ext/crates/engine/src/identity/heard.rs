//! Datagrams of balancers: each begins with a PROXY header of version 2, or of nobody whose word counts.

use std::net::SocketAddr;

use l4proxy_wire::proxy::{Progress, Transport, v2};

use super::{dropped_by, has_balancers, is_trusted};
use crate::app::App;
use crate::counters::Dropped;

/// Who sent a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sender {
    /// The client.
    pub(crate) client: SocketAddr,
    /// Where answers go to: the client, or the balancer that it came through.
    pub(crate) answers_to: SocketAddr,
}

/// Who sent a datagram that came from `source`, and what of it is the client's.
pub(crate) fn read<'a>(
    app: &App,
    source: SocketAddr,
    datagram: &'a [u8],
) -> Result<(Sender, &'a [u8]), Dropped> {
    if !has_balancers(app) {
        return Ok((Sender { client: source, answers_to: source }, datagram));
    }
    if !is_trusted(app, source.ip()) {
        return Err(Dropped::BadProxyUntrusted);
    }
    match v2::decode(datagram) {
        Ok(Progress::Done { header, length }) => {
            let client = header.client(Transport::Datagram).unwrap_or(source);
            Ok((Sender { client, answers_to: source }, &datagram[length..]))
        }
        // The rest cannot come in another datagram.
        Ok(Progress::Incomplete { .. }) => Err(Dropped::BadProxyIncomplete),
        Err(reason) => Err(dropped_by(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tests::game;
    use crate::policy::Prefix;
    use l4proxy_wire::proxy::Endpoints;

    const BALANCER: &str = "10.0.0.7:9";

    fn from_balancer(endpoints: Endpoints<'_>, transport: Transport) -> Vec<u8> {
        let mut bytes = Vec::new();
        v2::encode(endpoints, transport, v2::Extras::default(), &mut bytes).unwrap();
        bytes.extend_from_slice(b"ping");
        bytes
    }

    fn inet() -> Endpoints<'static> {
        let source = "192.0.2.1:1234".parse().unwrap();
        Endpoints::Inet { source, destination: "198.51.100.2:5060".parse().unwrap() }
    }

    #[test]
    fn without_balancers_nothing_is_looked_at() {
        let source = BALANCER.parse().unwrap();
        let datagram = from_balancer(inet(), Transport::Datagram);
        let sender = Sender { client: source, answers_to: source };
        assert_eq!(read(&game(), source, &datagram), Ok((sender, &datagram[..])));
    }

    #[test]
    fn a_balancer_names_the_client_and_gets_the_answers() {
        let mut app = game();
        app.policy.accept_from = vec![Prefix::parse("", "10.0.0.0/8").unwrap()];
        let source: SocketAddr = BALANCER.parse().unwrap();
        let named = "192.0.2.1:1234".parse().unwrap();
        for (endpoints, transport, client) in [
            (inet(), Transport::Datagram, named),
            // A client of another transport, and none: the connection's own address holds.
            (inet(), Transport::Stream, source),
            (Endpoints::Local, Transport::Datagram, source),
            (Endpoints::Unspecified, Transport::Datagram, source),
        ] {
            let datagram = from_balancer(endpoints, transport);
            let sender = Sender { client, answers_to: source };
            assert_eq!(read(&app, source, &datagram), Ok((sender, &b"ping"[..])), "{endpoints:?}");
        }
        let mapped = "[::ffff:10.0.0.7]:9".parse().unwrap();
        assert_eq!(read(&app, mapped, &from_balancer(inet(), Transport::Datagram)).unwrap().0.client, named);
        for (datagram, reason) in [
            (&b""[..], Dropped::BadProxyIncomplete),
            (b"ping", Dropped::BadProxySignature),
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\nping", Dropped::BadProxySignature),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\0", Dropped::BadProxyIncomplete),
            (b"\r\n\r\n\0\r\nQUIT\n\x31\x12\0\x0c\0", Dropped::BadProxyVersion),
        ] {
            assert_eq!(read(&app, source, datagram), Err(reason));
        }
        let stranger = "192.0.2.1:9".parse().unwrap();
        let datagram = from_balancer(inet(), Transport::Datagram);
        assert_eq!(read(&app, stranger, &datagram), Err(Dropped::BadProxyUntrusted));
    }
}
