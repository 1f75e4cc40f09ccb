//! What the workers count: one cell per worker and counter, written by that worker alone and summed by whoever reads.
//!
//! A cell is never shared by two writers, so counting is a load and a store, and each worker's cells have cache lines of their own.
//! Totals since the engine's start; names are those of the `counters` frame.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::snapshot::Protocol;

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident; $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every one, in the order of its cells.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name for the daemon.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

counters! {
    /// What a worker does.
    Value;
    /// Times that the worker was woken or its wait ended.
    Wakeups = "wakeups",
    /// Times that a busy worker let datagrams gather before its next turn.
    Pauses = "pauses",
    /// Times that a worker looked at its fast TCP flows by the clock.
    Polls = "polls",
    /// TCP connections of clients that were accepted, refused ones included.
    TcpAccepted = "tcp_accepted",
    /// Attempts to dial an origin over TCP.
    TcpDials = "tcp_dials",
    /// Flows that were opened through a later candidate because an earlier one failed.
    FlowsRetried = "flows_retried",
    /// Addresses that were dialled beside another address of the same origin that had not answered yet, or had failed.
    DialsRaced = "dials_raced",
    /// Bytes that went from socket to socket through a pipe.
    SplicedBytes = "spliced_bytes",
    /// Bytes that were copied.
    CopiedBytes = "copied_bytes",
    /// UDP sessions that made room for others.
    SessionsEvicted = "sessions_evicted",
    /// UDP sessions whose client proved to hear us.
    SessionsAssured = "sessions_assured",
    /// Sessions that could not become assured because that class is full.
    AssuredFull = "assured_full",
    /// Datagrams that clients or origins sent to this PoP.
    DatagramsReceived = "datagrams_received",
    /// Panics of this worker that were caught.
    WorkerPanics = "worker_panics",
    /// Flows that ended with a panic of their worker.
    FlowsLostToPanics = "flows_lost_to_panics",
}

counters! {
    /// Why something that came was refused or thrown away.
    Dropped;
    /// No descriptor was to be had for a new flow.
    FdLimit = "fd_limit",
    /// As many TCP flows as the engine may have.
    TcpFlowsFull = "tcp_flows_full",
    /// As many UDP sessions as the engine may have.
    SessionsFull = "sessions_full",
    /// As many flows as the app may have.
    AppFlowsFull = "app_flows_full",
    /// As many flows of one source as the app allows.
    SourceFlowsFull = "source_flows_full",
    /// The client is one of those that the app does not let in.
    AccessDenied = "access_denied",
    /// As many new flows of the app as it may have in a second.
    NewFlowRate = "new_flow_rate",
    /// As many new flows of one source as it may have in a second.
    SourceNewFlowRate = "source_new_flow_rate",
    /// This host or control group has hardly any memory left.
    MemoryShort = "memory_short",
    /// The app has no candidate for new flows, or none that works.
    NoRoute = "no_route",
    /// The name of an origin has no address (yet).
    OriginUnresolved = "origin_unresolved",
    /// The name of an origin led to an address that means this host.
    OriginUnspecified = "origin_unspecified",
    /// The same: to this host's loopback.
    OriginLoopback = "origin_loopback",
    /// To a link-local address.
    OriginLinkLocal = "origin_link_local",
    /// To a cloud's metadata service.
    OriginMetadata = "origin_metadata",
    /// To a multicast group.
    OriginMulticast = "origin_multicast",
    /// To the broadcast address.
    OriginBroadcast = "origin_broadcast",
    /// To an address that no host has.
    OriginReserved = "origin_reserved",
    /// To a private address, which the app does not allow.
    OriginPrivate = "origin_private",
    /// To a listener of this proxy.
    OriginOwnListener = "origin_own_listener",
    /// An address of an app's source pool is not this host's; the client's next one was tried.
    SourceNotLocal = "source_not_local",
    /// None of a client's source addresses is this host's.
    SourceExhausted = "source_exhausted",
    /// Speaking with the client's address is not permitted (CAP_NET_ADMIN or CAP_NET_RAW).
    SourceNotPermitted = "source_not_permitted",
    /// There is no source address of the origin's family.
    SourceOtherFamily = "source_other_family",
    /// New flows are not taken any more.
    Draining = "draining",
    /// A connection died before it was accepted.
    AcceptAborted = "accept_aborted",
    /// Somebody else than a balancer came to an app whose clients come through balancers.
    BadProxyUntrusted = "bad_proxy_header_untrusted",
    /// A balancer's connection had no whole PROXY header in time.
    BadProxyTimeout = "bad_proxy_header_timeout",
    /// A balancer's connection ended before its PROXY header did, or a datagram did.
    BadProxyIncomplete = "bad_proxy_header_incomplete",
    /// Not a PROXY header at all.
    BadProxySignature = "bad_proxy_header_signature",
    /// A PROXY header of an unknown version.
    BadProxyVersion = "bad_proxy_header_version",
    /// A PROXY header with an unknown command.
    BadProxyCommand = "bad_proxy_header_command",
    /// A PROXY header with a family or protocol that does not exist.
    BadProxyFamily = "bad_proxy_header_family",
    /// A PROXY header that is too long, or too short for its addresses.
    BadProxyLength = "bad_proxy_header_length",
    /// A PROXY line that is not made as it must be.
    BadProxyLine = "bad_proxy_header_line",
    /// A PROXY line with an address or port that is none.
    BadProxyAddress = "bad_proxy_header_address",
    /// A PROXY header whose TLVs are broken.
    BadProxyTlv = "bad_proxy_header_tlv",
    /// A PROXY header whose checksum is wrong.
    BadProxyChecksum = "bad_proxy_header_checksum",
    /// As many connections wait for their PROXY headers as may.
    ProxyHeadersFull = "proxy_headers_full",
    /// A datagram that would have fitted without the header that tells the origin who the client is.
    UdpNoRoomForHeader = "udp_no_room_for_header",
    /// A datagram was larger than the receive buffer; cannot happen with UDP's own limit.
    UdpTruncated = "udp_truncated",
    /// A socket took no more datagrams.
    UdpSendFull = "udp_send_full",
    /// A datagram was too large for the way on.
    UdpTooLarge = "udp_too_large",
    /// The other end refused a datagram (ICMP port unreachable).
    UdpRefused = "udp_refused",
    /// There is no way to the other end.
    UdpUnreachable = "udp_unreachable",
    /// A datagram was not sent for another reason.
    UdpSendFailed = "udp_send_failed",
    /// A datagram that reached a session's port and was not its origin's.
    UdpForeign = "udp_foreign",
    /// An answer was more than a client that has proved nothing may get for what it sent.
    Amplification = "amplification",
    /// A datagram that was more than its flow may carry in the time.
    Bandwidth = "bandwidth",
    /// A datagram of a flow that was refused a moment ago.
    UdpFlowRefused = "udp_flow_refused",
    /// The tunnel took no more datagrams.
    TunnelFull = "tunnel_full",
    /// The tunnel of a flow was not there.
    TunnelGone = "tunnel_gone",
    /// A frame of the datagram channel that fits no session.
    FrameUnexpected = "frame_unexpected",
    /// A client did not speak TLS, had nothing in common with us, or went away in the handshake.
    TlsHandshakeFailed = "tls_handshake_failed",
    /// A client did not finish its handshake in time.
    TlsTimeout = "tls_timeout",
    /// A client has no certificate and must have one.
    TlsNoCertificate = "tls_no_certificate",
    /// A client's certificate has ended, or is of another authority.
    TlsBadCertificate = "tls_bad_certificate",
    /// A client refused us: it does not trust our certificate, for instance.
    TlsAlert = "tls_alert",
    /// What a client sent after the handshake was not genuine.
    TlsBroken = "tls_broken",
    /// A client's connection ended without the word that says so.
    TlsTruncated = "tls_truncated",
    /// An origin could not be spoken to with TLS, or broke it off.
    OriginTlsFailed = "origin_tls_failed",
    /// An origin's certificate is not good.
    OriginTlsCertificate = "origin_tls_certificate",
    /// A peer asked for an app that is not configured here.
    EgressUnknownApp = "egress_unknown_app",
    /// A peer asked for an origin that is not configured here.
    EgressUnknownOrigin = "egress_unknown_origin",
    /// A peer asked for what this PoP does not admit.
    EgressDenied = "egress_denied",
    /// A message to the daemon did not fit its queue.
    ControlQueueFull = "control_queue_full",
    /// What became of a flow, or what a path carried, found its table full and was not summed.
    OutcomesFull = "outcomes_full",
    /// A control message had no pair connection to take, or its queue was full.
    BusNotSent = "bus_not_sent",
}

counters! {
    /// What one app's flows do.
    AppValue;
    /// TCP flows that were opened.
    TcpOpened = "tcp_opened",
    /// UDP flows that were opened.
    UdpOpened = "udp_opened",
    /// TCP flows that have ended.
    TcpClosed = "tcp_closed",
    /// UDP flows that have ended.
    UdpClosed = "udp_closed",
    /// Payload bytes of TCP flows towards origins.
    TcpBytesToOrigin = "tcp_bytes_to_origin",
    /// Payload bytes of TCP flows towards clients.
    TcpBytesToClient = "tcp_bytes_to_client",
    /// Payload bytes of UDP flows towards origins.
    UdpBytesToOrigin = "udp_bytes_to_origin",
    /// Payload bytes of UDP flows towards clients.
    UdpBytesToClient = "udp_bytes_to_client",
    /// Datagrams towards origins.
    DatagramsToOrigin = "datagrams_to_origin",
    /// Datagrams towards clients.
    DatagramsToClient = "datagrams_to_client",
    /// Datagrams of flows that did not pass.
    DatagramsDropped = "datagrams_dropped",
    /// New flows that were refused, for whatever reason.
    Refused = "flows_refused",
    /// Of the refused, those of clients that the app does not let in.
    RefusedAccess = "refused_access_denied",
    /// Those for which the app had as many flows as it may.
    RefusedFlows = "refused_app_flows_full",
    /// Those for which their source had as many as it may.
    RefusedSourceFlows = "refused_source_flows_full",
    /// Those that were too many new ones of the app in a second.
    RefusedRate = "refused_new_flow_rate",
    /// Those that were too many new ones of their source in a second.
    RefusedSourceRate = "refused_source_new_flow_rate",
    /// Those for which this host had no memory left.
    RefusedMemory = "refused_memory_short",
    /// New flows whose source found the table of sources full, and that were let in on the app's rate alone.
    SourceRatesFull = "source_rates_full",
    /// Times that a TCP flow waited because it had carried what it may.
    BandwidthWaits = "bandwidth_waits",
    /// Datagrams that were more than their flow may carry.
    BandwidthDropped = "bandwidth_dropped",
    /// Flows that were ended because a new list denies their client.
    FlowsDenied = "flows_denied",
    /// TCP flows that ended because the process of the other PoP was another one than the one that had them.
    LostPeerRestarted = "lost_peer_restarted",
    /// Those that ended because the other PoP stopped.
    LostPeerStopped = "lost_peer_stopped",
    /// Those that ended because no path to the other PoP worked for too long.
    LostPeerSilent = "lost_peer_silent",
    /// Those that ended with their tunnel for another reason.
    LostTunnel = "lost_tunnel",
    /// UDP flows that moved to another egress because theirs was out of reach.
    Rehomed = "rehomed",
    /// First datagrams of UDP flows that were sent again, through another egress, because the first did not answer.
    FirstResent = "first_datagrams_resent",
    /// Those that could not be, because too many wait for an answer.
    FirstUnkept = "first_datagrams_unkept",
    /// Flows that ended because of their origin: reset, timed out, refused or unreachable.
    OriginErrors = "origin_errors",
}

counters! {
    /// What became of a flow, for the control plane: connects and endings, by app and way.
    Fate;
    /// An attempt to reach the origin was begun.
    Tried = "tried",
    /// The origin was reached; of UDP through another PoP: that PoP has a session for the flow.
    Connected = "connected",
    /// The origin refused.
    Refused = "refused",
    /// There was no way to the origin.
    Unreachable = "unreachable",
    /// No answer in the time of the attempt.
    TimedOut = "timed_out",
    /// The origin reset before it had sent a byte.
    ResetEarly = "reset_early",
    /// The tunnel to the egress was not there, or was lost before the egress answered.
    NoTunnel = "no_tunnel",
    /// The egress PoP would not, or could not, for a reason of its own.
    EgressRefused = "egress_refused",
    /// Something else: TLS with the origin, a source address, what a name led to.
    Failed = "failed",
    /// A flow ended because its origin reset it, having sent something.
    OriginReset = "origin_reset",
    /// A flow ended with its tunnel.
    PathLost = "path_lost",
    /// A UDP flow heard its first answer.
    Answered = "answered",
    /// A UDP flow ended that had sent and never heard anything.
    Silent = "silent",
}

/// Cells of one worker, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Cells<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Cells<N> {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Cells<N> {
    /// Add to a cell. Only the worker that owns the cells may.
    fn add(&self, index: usize, amount: u64) {
        let cell = &self.0[index];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    fn get(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }
}

/// Everything that one worker counts for the engine as a whole.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    values: Cells<{ Value::ALL.len() }>,
    drops: Cells<{ Dropped::ALL.len() }>,
}

impl WorkerCounters {
    /// Count something. Only the worker that owns this may.
    pub(crate) fn add(&self, value: Value, amount: u64) {
        self.values.add(value as usize, amount);
    }

    /// Count something that was refused or thrown away. Only the worker that owns this may.
    pub(crate) fn drop(&self, reason: Dropped) {
        self.drop_many(reason, 1);
    }

    /// The same for several at once.
    pub(crate) fn drop_many(&self, reason: Dropped, amount: u64) {
        self.drops.add(reason as usize, amount);
    }

    /// The total of a value.
    pub(crate) fn get(&self, value: Value) -> u64 {
        self.values.get(value as usize)
    }

    /// The total of a reason.
    pub(crate) fn dropped(&self, reason: Dropped) -> u64 {
        self.drops.get(reason as usize)
    }
}

/// The codes with which flows end (`Ending::code`).
pub(crate) const END_CODES: [u16; 16] =
    [200, 443, 444, 445, 447, 490, 495, 497, 600, 602, 603, 604, 605, 606, 608, 609];

/// One worker's cells of one app.
#[derive(Debug, Default)]
struct AppCells {
    values: Cells<{ AppValue::ALL.len() }>,
    /// Ended flows by code: TCP's, then UDP's.
    ended: Cells<{ 2 * END_CODES.len() }>,
}

/// What all workers count for one app.
#[derive(Debug)]
pub(crate) struct AppCounters(Box<[AppCells]>);

impl AppCounters {
    /// Nothing has been counted.
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| AppCells::default()).collect())
    }

    /// Count something. Only this worker may.
    pub(crate) fn add(&self, worker: usize, value: AppValue, amount: u64) {
        self.0[worker].values.add(value as usize, amount);
    }

    /// The total over all workers.
    pub(crate) fn sum(&self, value: AppValue) -> u64 {
        self.0.iter().map(|cells| cells.values.get(value as usize)).sum()
    }

    /// Count a flow that has ended with a code. Only this worker may.
    pub(crate) fn add_ended(&self, worker: usize, protocol: Protocol, code: u16) {
        if let Some(place) = END_CODES.iter().position(|&known| known == code) {
            self.0[worker].ended.add(ended_cell(protocol, place), 1);
        }
    }

    /// Flows that have ended, by protocol and code, over all workers; only those codes that there were.
    pub(crate) fn ended(&self) -> impl Iterator<Item = (Protocol, u16, u64)> + '_ {
        let cells = [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(|protocol| {
            END_CODES
                .iter()
                .enumerate()
                .map(move |(place, &code)| (protocol, code, ended_cell(protocol, place)))
        });
        cells
            .map(|(protocol, code, cell)| {
                (protocol, code, self.0.iter().map(|cells| cells.ended.get(cell)).sum())
            })
            .filter(|&(_, _, count)| count > 0)
    }
}

const fn ended_cell(protocol: Protocol, place: usize) -> usize {
    match protocol {
        Protocol::Tcp => place,
        Protocol::Udp => END_CODES.len() + place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_each_worker_counts_is_summed() {
        let app = AppCounters::new(3);
        for worker in 0..3 {
            app.add(worker, AppValue::TcpOpened, 1 + worker as u64);
        }
        app.add(1, AppValue::OriginErrors, 7);
        assert_eq!((app.sum(AppValue::TcpOpened), app.sum(AppValue::OriginErrors)), (6, 7));
        assert_eq!(app.sum(AppValue::UdpOpened), 0);
        for (worker, protocol, code) in
            [(0, Protocol::Tcp, 200), (2, Protocol::Tcp, 200), (1, Protocol::Udp, 608)]
        {
            app.add_ended(worker, protocol, code);
        }
        let ended: Vec<_> = app.ended().collect();
        assert_eq!(ended, [(Protocol::Tcp, 200, 2), (Protocol::Udp, 608, 1)]);
    }

    #[test]
    fn no_two_counters_share_a_name_or_a_cell() {
        let names: BTreeSet<_> = Dropped::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Dropped::ALL.len());
        let names: BTreeSet<_> = Value::ALL.iter().map(|value| value.as_str()).collect();
        assert_eq!(names.len(), Value::ALL.len());
        assert!(Dropped::ALL.iter().enumerate().all(|(index, &reason)| reason as usize == index));
        let counters = WorkerCounters::default();
        counters.drop(Dropped::FdLimit);
        counters.add(Value::Wakeups, 2);
        assert_eq!((counters.dropped(Dropped::FdLimit), counters.get(Value::Wakeups)), (1, 2));
        assert_eq!((counters.dropped(Dropped::NoRoute), counters.get(Value::TcpAccepted)), (0, 0));
    }
}
