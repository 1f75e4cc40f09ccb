//! What the edges call: TCP flows as streams and UDP flows as datagram frames, by route handle. The tunnels do the work; this finds
//! or makes the connection of a handle and notes that it is used.

use std::time::Instant;

use l4proxy_tunnel::{Role, SendError};
use l4proxy_wire::channel::Frame;
use l4proxy_wire::codes::{Reason, StreamCode};
use l4proxy_wire::open::Open;

use super::{ChannelKey, OpenError, Overlay, StreamKey, StreamRead, StreamWrite, Wish};

impl Overlay {
    /// Open a TCP flow through a handle. Bytes may be written at once; `StreamOpened` or `StreamRefused` follows.
    pub(crate) fn open_stream(
        &mut self,
        now: Instant,
        handle: u32,
        open: &Open<'_>,
    ) -> Result<StreamKey, OpenError> {
        let connection = self.connection_of(now, handle)?;
        self.used(connection, now);
        self.tunnels.open_stream(connection, open).map_err(|error| OpenError::NoTunnel(error.to_string()))
    }

    /// Answer `StreamIncoming` with OPEN_OK.
    pub(crate) fn accept_stream(&mut self, key: StreamKey) {
        self.tunnels.accept(key);
    }

    /// Answer `StreamIncoming` with OPEN_FAIL.
    pub(crate) fn refuse_stream(&mut self, key: StreamKey, reason: Reason) {
        self.tunnels.refuse(key, reason);
    }

    /// Write to a stream; when it takes less than all, `StreamWritable` follows.
    pub(crate) fn write(&mut self, now: Instant, key: StreamKey, data: &[u8]) -> StreamWrite {
        self.used(key.connection, now);
        self.tunnels.write(key, data)
    }

    /// Say that nothing more will be written.
    pub(crate) fn finish(&mut self, key: StreamKey) {
        self.tunnels.finish(key);
    }

    /// End both directions at once.
    pub(crate) fn reset(&mut self, key: StreamKey, code: StreamCode) {
        self.tunnels.reset(key, code);
    }

    /// Read from a stream; after `Blocked`, `StreamReadable` follows.
    pub(crate) fn read(&mut self, key: StreamKey, buf: &mut [u8]) -> StreamRead {
        self.tunnels.read(key, buf)
    }

    /// Send a frame of a UDP flow through a handle; returns the channel it took.
    pub(crate) fn send_frame(
        &mut self,
        now: Instant,
        handle: u32,
        frame: &Frame<'_>,
        wish: Wish<'_>,
    ) -> Result<ChannelKey, OpenError> {
        let connection = self.connection_of(now, handle)?;
        match self.send_once_or_twice(now, connection, frame, wish) {
            Ok(()) => Ok(self.connections.line(connection)),
            Err(error) => Err(OpenError::NoTunnel(error.to_string())),
        }
    }

    /// Send a frame on the channel of a frame that came in.
    pub(crate) fn reply_frame(
        &mut self,
        now: Instant,
        channel: ChannelKey,
        frame: &Frame<'_>,
    ) -> Result<(), SendError> {
        let connection = self.connections.carrier(channel);
        self.on_datagram(now, connection);
        self.tunnels.send_frame(connection, frame)
    }

    /// The same for a frame with a datagram, which may go over two paths.
    pub(crate) fn send_datagram(
        &mut self,
        now: Instant,
        channel: ChannelKey,
        frame: &Frame<'_>,
        wish: Wish<'_>,
    ) -> Result<(), SendError> {
        self.send_once_or_twice(now, self.connections.carrier(channel), frame, wish)
    }

    /// A datagram is about to leave through a channel, in packets of a size that passes.
    pub(super) fn on_datagram(&mut self, now: Instant, channel: ChannelKey) {
        let mtu = self.used(channel, now);
        self.tunnels.set_path_mtu(channel, mtu);
    }

    /// The connection of a handle; dialled now if there is none.
    fn connection_of(&mut self, now: Instant, id: u32) -> Result<ChannelKey, OpenError> {
        if let Some(key) = self.connections.of_handle(id) {
            return Ok(key);
        }
        let handle = self.tables.handle(id).ok_or(OpenError::NoHandle(id))?;
        let key = self
            .tunnels
            .connect_over(now, handle.peer, Role::Flows, &handle.policy, self.hint_of(now, Some(handle)))
            .map_err(|error| OpenError::NoTunnel(error.to_string()))?;
        self.connections.insert_dialled(key, handle);
        Ok(key)
    }
}
