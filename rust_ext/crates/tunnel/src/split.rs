//! QUIC packets that are longer than the path carries. QUIC finds by itself how long its packets may be, and takes back what it has found only
//! after many of them were lost; what a dead path has swallowed has its length for good. So when a connection moves to a path that carries
//! less, its long packets go in pieces, as a frame of the datagram channel, until it ends: nothing is lost, and nobody waits.
//!
//! Not here: what is known of the path's size (the caller), and putting pieces together (`fragments`).

use l4proxy_wire::channel::{FRAGMENT_OVERHEAD, Fragment, Frame};
use l4proxy_wire::stream::Role;

use crate::channel::{Delivery, Way};
use crate::connection::Connection;
use crate::counters::Counters;
use crate::packets::Written;

/// Hands packets of QUIC to the channel in pieces if they are too long for the path. False: they are not, or there is no channel, and they
/// go as they are.
///
/// A packet that QUIC sends to find out whether a longer one passes is kept back instead: the answer is known.
pub(crate) fn is_taken_by_channel(
    connection: &mut Connection,
    packets: &[u8],
    written: &Written,
    counters: &mut Counters,
) -> bool {
    let segment_size = written.segment_size.unwrap_or(written.size);
    if segment_size <= connection.path_packet {
        return false;
    }
    if !written.is_again && segment_size > usize::from(connection.quic.current_mtu()) {
        return true;
    }
    // There is no channel to take it: it goes as it is, and QUIC finds out.
    if connection.outbox.is_for_quic() {
        return false;
    }
    let (Some(Role::Flows), Some(keys), Some(address)) =
        (connection.role, connection.channel_keys.as_mut(), connection.channel_address)
    else {
        return false;
    };
    let outbox = &mut connection.outbox;
    let most = outbox.max_frames() - FRAGMENT_OVERHEAD;
    let (mut frame, mut fragment) = (Vec::new(), Vec::new());
    for packet in packets.chunks(segment_size) {
        frame.clear();
        let whole = Frame::Quic { ecn_bits: written.ecn_bits, packet };
        whole.encode(&mut frame).expect("a packet is far shorter than 64 kB");
        // Two pieces at least, since FRAGMENT knows no single one; of one length, so that they leave together.
        let count = frame.len().div_ceil(most).max(2);
        let id = outbox.next_fragment_id();
        for (index, bytes) in frame.chunks(frame.len().div_ceil(count)).enumerate() {
            fragment.clear();
            let piece = Fragment { id, index: index as u8, count: count as u8, bytes };
            Frame::Fragment(piece).encode(&mut fragment).expect("a piece is shorter than a packet");
            // QUIC sends again what is lost.
            let way = Way::Sealed(&mut *keys, address);
            if let Err(reason) = outbox.push(&fragment, Delivery::Once, way) {
                counters.drop(reason);
            }
        }
        counters.packets_split += 1;
    }
    true
}
