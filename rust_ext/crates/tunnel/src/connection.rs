//! The state of one connection: QUIC, its identity, its control stream, its channel and its streams' ids.
//! What happens to it is decided in `lifecycle`, `datagrams` and `streams`.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use l4proxy_wire::ids::PopId;
use l4proxy_wire::keys::PairKeys;
use l4proxy_wire::stream::Role;
use noq_proto::{ConnectionHandle, PathId, StreamId};

use crate::channel::{ChannelAddress, ChannelKeys, Outbox, Way};
use crate::control_stream::ControlStream;
use crate::credit::{Receiving, Sending};
use crate::events::{ConnectionKey, ConnectionState, ConnectionStats, ConnectionView, ReturnAddress};
use crate::flight::Flight;
use crate::fragments::Reassembly;
use crate::options::DatagramMode;
use crate::recent::Recent;
use crate::repair::Repairer;
use crate::resend::Resend;
use crate::stripes::Nobodys;
use crate::turns::Turns;

/// Three times as long as who dials waits before it says its words again.
const ANSWER_STRAIGHT_FOR: Duration = Duration::from_millis(900);

/// Where a connection is; [`ConnectionState`] plus the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Handshaking,
    AwaitingHello,
    Ready,
    /// Over for the caller; the QUIC part says goodbye and drains.
    Closed,
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) key: ConnectionKey,
    pub(crate) handle: ConnectionHandle,
    pub(crate) quic: noq_proto::Connection,
    pub(crate) peer: PopId,
    pub(crate) peer_name: String,
    /// It began with a stranger's packet, and nothing has come on it from a known address since: answers go there.
    pub(crate) back_to: Option<ReturnAddress>,
    /// Between which addresses a packet of the peer came last that had passed no transit.
    pub(crate) came_straight: Option<ReturnAddress>,
    pub(crate) role: Option<Role>,
    pub(crate) policy: String,
    pub(crate) phase: Phase,
    /// The peer's `HELLO` must be here by then.
    pub(crate) hello_deadline: Option<Instant>,
    /// Bytes that may be sent before who dialled has shown that they reach it; None: it has, or we dialled, which is done only to addresses
    /// of the fleet file. QUIC's own account lets one packet more pass.
    pub(crate) allowance: Option<u64>,
    pub(crate) began: Instant,
    /// When a packet came on it last.
    pub(crate) last_received: Option<Instant>,
    /// `Connected` has been told.
    pub(crate) is_announced: bool,
    pub(crate) control: ControlStream,
    pub(crate) pair_keys: Option<PairKeys>,
    pub(crate) channel_keys: Option<ChannelKeys>,
    pub(crate) channel_address: Option<ChannelAddress>,
    /// The older connection whose flows of datagrams go over to this one.
    pub(crate) follows: Option<ConnectionKey>,
    pub(crate) outbox: Outbox,
    /// The longest packet that the path carries, in bytes, as far as the caller knows.
    pub(crate) path_packet: usize,
    /// What this side wished for when the connection began.
    pub(crate) wished: DatagramMode,
    pub(crate) reassembly: Reassembly,
    pub(crate) resend: Resend,
    /// The latest packets of the channel.
    pub(crate) recent: Recent,
    pub(crate) sending: Sending,
    pub(crate) receiving: Receiving,
    pub(crate) repairer: Repairer,
    /// What was dialled with, until something comes back.
    pub(crate) flight: Flight,
    pub(crate) channel_packets_sent: u64,
    pub(crate) channel_packets_received: u64,
    /// Places in the table of streams, by QUIC's id.
    pub(crate) streams: BTreeMap<StreamId, u32>,
    /// Further streams of fast flows, ours and the peer's: places of their flows.
    pub(crate) stripes: BTreeMap<StreamId, u32>,
    /// The peer's that have not said whose they are.
    pub(crate) nobodys: BTreeMap<StreamId, Nobodys>,
    /// Streams of ours that QUIC could not open yet.
    pub(crate) waiting_streams: VecDeque<u32>,
    /// Streams that wait for room in the connection's send window.
    pub(crate) turns: Turns,
    /// It stands in the queue of connections whose streams may be given a turn.
    pub(crate) is_turn_queued: bool,
    /// It stands in the queue of connections that may have something to send.
    pub(crate) is_queued: bool,
    /// QUIC was used since it had nothing to send.
    pub(crate) has_quic_work: bool,
    /// Its entry in the set of timers.
    pub(crate) timer: Option<Instant>,
}

/// What a new connection starts from.
pub(crate) struct NewConnection {
    pub(crate) key: ConnectionKey,
    pub(crate) handle: ConnectionHandle,
    pub(crate) quic: noq_proto::Connection,
    pub(crate) peer: PopId,
    pub(crate) peer_name: String,
    pub(crate) role: Option<Role>,
    pub(crate) policy: String,
    pub(crate) began: Instant,
    pub(crate) hello_deadline: Instant,
    pub(crate) max_bus_bytes: usize,
    pub(crate) wished: DatagramMode,
    pub(crate) resend: Resend,
    /// What the peer's flows may have on their way at first.
    pub(crate) window: u64,
}

impl Connection {
    pub(crate) fn new(new: NewConnection) -> Self {
        Self {
            key: new.key,
            handle: new.handle,
            quic: new.quic,
            peer: new.peer,
            peer_name: new.peer_name,
            back_to: None,
            came_straight: None,
            role: new.role,
            policy: new.policy,
            phase: Phase::Handshaking,
            hello_deadline: Some(new.hello_deadline),
            allowance: None,
            began: new.began,
            last_received: None,
            is_announced: false,
            control: ControlStream::new(new.max_bus_bytes),
            pair_keys: None,
            channel_keys: None,
            channel_address: None,
            follows: None,
            outbox: Outbox::default(),
            path_packet: usize::MAX,
            wished: new.wished,
            reassembly: Reassembly::default(),
            resend: new.resend,
            recent: Recent::default(),
            sending: Sending::default(),
            receiving: Receiving::new(new.window),
            repairer: Repairer::default(),
            flight: Flight::default(),
            channel_packets_sent: 0,
            channel_packets_received: 0,
            streams: BTreeMap::new(),
            stripes: BTreeMap::new(),
            nobodys: BTreeMap::new(),
            waiting_streams: VecDeque::new(),
            turns: Turns::default(),
            is_turn_queued: false,
            is_queued: false,
            has_quic_work: true,
            timer: None,
        }
    }

    /// The outbox, and how what is in it leaves.
    pub(crate) fn outbox_and_way(&mut self) -> (&mut Outbox, Way<'_>) {
        let way = match (self.channel_address, &mut self.channel_keys) {
            (Some(_), _) if self.outbox.is_for_quic() => Way::Quic,
            (Some(address), Some(keys)) => Way::Sealed(keys, address),
            (Some(_) | None, _) => Way::Held,
        };
        (&mut self.outbox, way)
    }

    /// When something must be done although nothing comes in.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let own = [
            self.resend.poll_timeout(),
            self.recent.poll_timeout(),
            self.flight.poll_timeout(),
            self.repairer.poll_timeout(),
        ];
        [self.quic.poll_timeout(), self.hello_deadline].into_iter().chain(own).flatten().min()
    }

    /// Where packets go now if not over the path of the handle.
    ///
    /// A handshake is answered the way that it came: a PoP that was started again shares no key with the transits of the path that its
    /// peers took when it fell silent, and drops what comes through them. In every other [`ANSWER_STRAIGHT_FOR`] the path is taken, because
    /// a link may be cut in one direction only.
    pub(crate) fn answers_to(&self, now: Instant) -> Option<ReturnAddress> {
        let is_answer = !self.is_dialled() && matches!(self.phase, Phase::Handshaking | Phase::AwaitingHello);
        let turns = now.saturating_duration_since(self.began).as_nanos() / ANSWER_STRAIGHT_FOR.as_nanos();
        self.back_to.or(self.came_straight.filter(|_| is_answer && turns.is_multiple_of(2)))
    }

    pub(crate) fn is_dialled(&self) -> bool {
        self.quic.side().is_client()
    }

    pub(crate) fn view(&self) -> Option<ConnectionView<'_>> {
        let state = match self.phase {
            Phase::Handshaking => ConnectionState::Handshaking,
            Phase::AwaitingHello => ConnectionState::AwaitingHello,
            Phase::Ready => ConnectionState::Ready,
            Phase::Closed => return None,
        };
        Some(ConnectionView {
            peer: self.peer,
            peer_name: &self.peer_name,
            role: self.role,
            policy: &self.policy,
            datagrams: if self.outbox.is_for_quic() { DatagramMode::Quic } else { DatagramMode::Channel },
            dialled: self.is_dialled(),
            state,
            rtt: self.quic.rtt(PathId::ZERO).unwrap_or_default(),
            packet_bytes: self.quic.current_mtu(),
            cwnd_bytes: self.quic.congestion_state(PathId::ZERO).map_or(0, |state| state.window()),
            peer_worker: self.channel_address.map(|address| address.worker),
            streams: self.streams.len() + self.waiting_streams.len(),
            began: self.began,
            last_received: self.last_received,
            follows: self.follows,
        })
    }

    pub(crate) fn stats(&mut self) -> ConnectionStats {
        let quic = self.quic.stats();
        ConnectionStats {
            quic_datagrams_sent: quic.udp_tx.datagrams,
            quic_bytes_sent: quic.udp_tx.bytes,
            quic_datagrams_received: quic.udp_rx.datagrams,
            quic_bytes_received: quic.udp_rx.bytes,
            quic_packets_lost: quic.lost_packets,
            quic_packets_sent: quic.sent_packets,
            channel_packets_sent: self.channel_packets_sent,
            channel_packets_received: self.channel_packets_received,
        }
    }
}
