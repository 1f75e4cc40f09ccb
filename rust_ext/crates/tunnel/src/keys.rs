//! Keys taken from a connection's TLS exporter: the pair's hop and probe keys, and the datagram channel's.

use l4proxy_wire::keys::{PAIR_EXPORTER_LABEL, PAIR_EXPORTER_LENGTH, PairKeys, Side};
use noq_proto::Connection;
use zeroize::Zeroizing;

use crate::channel::{self, ChannelKeys, Wear};

/// The keys of the two PoPs, seen from our side. `None` before the handshake is complete.
pub(crate) fn export_pair_keys(connection: &Connection) -> Option<PairKeys> {
    let mut exported = Zeroizing::new([0u8; PAIR_EXPORTER_LENGTH]);
    connection.crypto_session().export_keying_material(&mut *exported, PAIR_EXPORTER_LABEL, b"").ok()?;
    let side = match connection.side() {
        noq_proto::Side::Client => Side::Client,
        noq_proto::Side::Server => Side::Server,
    };
    Some(PairKeys::from_exported(&exported, side))
}

/// The keys of the connection's datagram channel. `None` before the handshake is complete.
pub(crate) fn export_channel_keys(connection: &Connection, wear: Wear) -> Option<ChannelKeys> {
    let mut exported = Zeroizing::new([0u8; channel::EXPORTED_LEN]);
    connection.crypto_session().export_keying_material(&mut *exported, channel::EXPORTER_LABEL, b"").ok()?;
    Some(ChannelKeys::new(&exported, connection.side(), wear))
}
