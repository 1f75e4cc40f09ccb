//! What one worker's tunnels are built with, and the QUIC settings they all share. It decides nothing at run time.
//!
//! The figures behind the transport settings were measured over an emulated wide-area path
//! (180 ms, 100 Mbit/s) and over a local link of 10 Gbit/s.

use std::sync::Arc;
use std::time::Duration;

use l4proxy_wire::ids::PopId;
use noq_proto::{MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::cipher::MAX_SEALED_PACKETS;
use crate::congestion::ControllerConfig;
use crate::credit::quic_window;

/// Largest UDP payload this crate produces: 1500 less IPv6 and UDP (48), less the longest outer
/// header (28).
pub const MAX_PACKET: usize = 1424;

/// What every path must carry (RFC 9000, section 14); a channel begins with it.
pub const MIN_PACKET: usize = 1200;

/// What one stream may have under way. More than this per stream lets a slow-start overshoot tear more holes into
/// the peer's buffer (1,024) than the library accepts before it closes the whole connection.
pub const STREAM_WINDOW: u32 = 2_500_000;

/// Flows that one connection may carry in each direction of opening.
const MAX_STREAMS: u32 = 10_000;

/// Further streams of fast flows that one connection may have in each direction: a hundred such flows share its window anyway.
const MAX_STRIPES_AT_ONCE: u32 = 800;

/// A connection is lost after this much silence. Longer than any reroute, shorter than a person's patience.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Kept alive well within the idle timeout, so that three pings may be lost.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// QUIC looks again this often whether the path carries larger packets than it uses, and so long after it has gone back to the smallest.
/// A search takes at most three packets of each of four sizes, and none once the largest is in use.
const SIZE_SEARCH_EVERY: Duration = Duration::from_secs(5);

/// The search halves what is left between the largest size that passed and the smallest that did not until less than this is left: 1,312,
/// 1,368, 1,396, 1,424.
const SIZE_STEP: u16 = 28;

/// A round trip that is expected is believed between these: timers of the handshake follow from it.
const SHORTEST_RTT: Duration = Duration::from_millis(20);
const LONGEST_RTT: Duration = Duration::from_secs(1);

/// A round trip of which nothing is known. Shorter than what RFC 9002, section 6.2.2, begins with (333 ms): the timers of a handshake follow
/// from it, and where three packets of ten are lost one in 50 handshakes came to nothing within its time. On a path that takes longer a few
/// packets of the handshake go out twice.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);

/// Frames of UDP flows that wait for QUIC to send them, and that have come and were not taken: more than one burst means that the
/// connection may not send as fast.
const FRAMES_BUFFER: usize = 1 << 20;

/// What carries the frames of UDP flows between two PoPs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DatagramMode {
    /// Sealed packets of their own, which congestion control of streams does not touch.
    #[default]
    Channel,
    /// DATAGRAM frames of QUIC (RFC 9221), where the peer takes them as well; else the channel.
    Quic,
}

/// How one worker's [`Tunnels`](crate::Tunnels) are set up.
#[derive(Clone)]
pub struct TunnelOptions {
    /// Number of this worker: byte 0 of its connection ids and the worker byte its peers answer to.
    pub worker: u8,
    /// This PoP.
    pub own: PopId,
    /// Secret and unpredictable, from the operating system, different for each worker and each start: connection ids
    /// and stateless-reset tokens are derived from it.
    pub seed: [u8; 32],
    /// Connections at one time, both directions; further ones are refused and counted. At most 65,536.
    pub max_connections: usize,
    /// Connections of peers that are still in their handshake; further ones are ignored and counted.
    pub max_handshakes: usize,
    /// Those among them whose first packet may as well have been sent by somebody else under the peer's address. Further ones are answered
    /// with a `Retry`, which costs a peer one round trip and us nothing to remember. A fleet that meets a PoP that has just started stays
    /// below it; a flood of forged packets cannot take the places above it.
    pub max_unproved: usize,
    /// The same of connections that began with a stranger's packet: strangers cannot take the places of peers. When half of them are taken,
    /// further ones are answered with a `Retry`. QUIC has one address for all strangers, so that its token shows that its owner hears us
    /// somewhere, and not where.
    pub max_stranger_handshakes: usize,
    /// From the first packet until the peer's `HELLO`.
    pub handshake_timeout: Duration,
    /// The same of a stranger's.
    pub stranger_handshake_timeout: Duration,
    /// Bytes a caller may write to a stream before the connection can take it.
    pub max_early_bytes: usize,
    /// Bytes that all connections together may hold: received and not read, sent and not acknowledged, and kept to be sent again. Beside it
    /// each flow may always have 32 kB under way.
    pub max_memory_bytes: usize,
    /// Bytes that all flows of one connection together may have written and not yet acknowledged.
    pub send_window_bytes: u32,
    /// Bytes that all flows of one connection together may have received and not yet read, as far as memory allows; one flow alone may have
    /// half of it.
    pub receive_window_bytes: u32,
    /// Bytes of one connection that are kept until they are acknowledged, so that they can be sent again when a path dies; what is sent
    /// beyond that waits for QUIC's timers then.
    pub max_resend_bytes: usize,
    /// Bytes of control messages waiting for one connection.
    pub max_bus_bytes: usize,
    /// Packets in either direction after which the keys of a channel are worn ([`TunnelEvent::ChannelWorn`](crate::TunnelEvent)).
    pub channel_worn_packets: u64,
    /// Packets that one key seals at most; never above 2²⁸.
    pub channel_max_packets: u64,
    /// What carries datagrams on connections that begin from now on.
    pub datagrams: DatagramMode,
}

impl TunnelOptions {
    /// The defaults for worker `worker` of PoP `own`.
    #[must_use]
    pub fn new(worker: u8, own: PopId, seed: [u8; 32]) -> Self {
        Self {
            worker,
            own,
            seed,
            max_connections: 1024,
            max_handshakes: 256,
            max_unproved: 64,
            max_stranger_handshakes: 64,
            // As long as QUIC itself waits for a sign of life.
            handshake_timeout: IDLE_TIMEOUT,
            stranger_handshake_timeout: Duration::from_secs(10),
            max_early_bytes: 64 << 10,
            max_memory_bytes: 1 << 30,
            // 1 Gbit/s over 300 ms are 37.5 MB; as much again while something is lost and sent once more.
            send_window_bytes: 80 << 20,
            receive_window_bytes: 80 << 20,
            // All that may be on its way, and headers.
            max_resend_bytes: 88 << 20,
            max_bus_bytes: 4 << 20,
            // Half of what may be: at 500,000 packets a second there are four minutes for the successor to be made.
            channel_worn_packets: MAX_SEALED_PACKETS / 2,
            channel_max_packets: MAX_SEALED_PACKETS,
            datagrams: DatagramMode::Channel,
        }
    }
}

impl std::fmt::Debug for TunnelOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelOptions")
            .field("worker", &self.worker)
            .field("own", &self.own)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

/// The QUIC transport settings of every connection: `window` what it begins with, `controllers` its congestion control, `rtt` the round trip that is expected.
pub(crate) fn transport_config(
    window: u64,
    options: &TunnelOptions,
    controllers: Arc<ControllerConfig>,
    rtt: Option<Duration>,
) -> Arc<TransportConfig> {
    let mut sizes = MtuDiscoveryConfig::default();
    sizes
        .upper_bound(MAX_PACKET as u16)
        .interval(SIZE_SEARCH_EVERY)
        .black_hole_cooldown(SIZE_SEARCH_EVERY)
        .minimum_change(SIZE_STEP);
    let mut transport = TransportConfig::default();
    transport
        .initial_rtt(rtt.map_or(UNKNOWN_RTT, |rtt| rtt.clamp(SHORTEST_RTT, LONGEST_RTT)))
        .congestion_controller_factory(controllers)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(quic_window(window, 0)))
        .send_window(options.send_window_bytes.into())
        // Without fairness a bulk stream starves every other one; priorities gave no gain.
        .send_fairness(true)
        .initial_mtu(MIN_PACKET as u16)
        .min_mtu(MIN_PACKET as u16)
        .mtu_discovery_config(Some(sizes))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_STRIPES_AT_ONCE))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("20 s fit a QUIC integer of milliseconds")))
        .keep_alive_interval(Some(KEEP_ALIVE))
        // To take DATAGRAM frames is a transport parameter, by which the peer learns that it may send them.
        .datagram_receive_buffer_size(match options.datagrams {
            DatagramMode::Channel => None,
            DatagramMode::Quic => Some(FRAMES_BUFFER),
        })
        .datagram_send_buffer_size(FRAMES_BUFFER)
        .allow_spin(false);
    Arc::new(transport)
}
