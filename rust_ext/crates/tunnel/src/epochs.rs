//! A connection follows another one of the same peer, role and policy: it has keys of its own, and flows of datagrams go over to it without
//! noticing. TCP flows stay on the older one until they end. When a successor is dialled, and when the older connection is closed, is the
//! caller's to decide; which side sends over which connection at every moment follows from the handshake:
//!
//! - The dialling side says in its `HELLO` which connection is followed, and goes on sealing on that one.
//! - The listening side knows the new keys when that comes: it answers with its own `HELLO` and sends over the new channel from here on. The
//!   dialling side opens such packets even when they overtake the `HELLO`.
//! - The dialling side sends over the new channel once it has read the answer.
//!
//! So nothing is sealed that the other side cannot open, and what is still on its way on the older channel is opened too.

use std::time::Instant;

use l4proxy_wire::ids::ChannelId;

use crate::congestion::PathHint;
use crate::connection::Phase;
use crate::driver::Tunnels;
use crate::error::ConnectError;
use crate::events::ConnectionKey;
use crate::lifecycle::channel_id;

impl Tunnels {
    /// Starts a connection that follows `older`, which was dialled here. After its `HelloReceived`, [`ConnectionView::follows`] says whether
    /// the peer has agreed: then call [`Self::retire`] for the older one and send over this one.
    ///
    /// [`ConnectionView::follows`]: crate::ConnectionView::follows
    ///
    /// # Errors
    /// [`ConnectError::NothingToFollow`], or as [`Self::connect`].
    pub fn connect_following(
        &mut self,
        now: Instant,
        older: ConnectionKey,
        hint: PathHint,
    ) -> Result<ConnectionKey, ConnectError> {
        let followed = self.find(older).map(|index| &self.connections[usize::from(index)]);
        let followed = followed.filter(|followed| followed.is_dialled() && followed.phase == Phase::Ready);
        let (Some(followed), Some(role)) = (followed, followed.and_then(|followed| followed.role)) else {
            return Err(ConnectError::NothingToFollow);
        };
        let (peer, policy) = (followed.peer, followed.policy.clone());
        self.dial(now, (peer, role, &policy), hint, Some(older))
    }

    /// Seals nothing more on the channel of a connection: another one follows it. Frames that wait still go, what comes is still opened, and its
    /// streams go on. The sending key is erased.
    pub fn retire(&mut self, key: ConnectionKey) {
        let Some(index) = self.find(key) else { return };
        let connection = &mut self.connections[usize::from(index)];
        if let (Some(keys), Some(address)) = (connection.channel_keys.as_mut(), connection.channel_address) {
            if let Err(reason) = connection.outbox.close(keys, address) {
                self.counters.drop(reason);
            }
            keys.retire();
        }
        self.touch(index);
    }

    /// The peer's number for the channel of the connection that this one follows, for our `HELLO`.
    pub(crate) fn followed_channel(&self, index: u16) -> Option<ChannelId> {
        let followed = self.find(self.connections[usize::from(index)].follows?)?;
        self.connections[usize::from(followed)].channel_address.map(|address| address.channel)
    }

    /// On the listening side: the peer says that the connection follows the one whose channel has this number of ours.
    pub(crate) fn follow(&mut self, index: u16, channel: Option<ChannelId>) {
        let connection = &self.connections[usize::from(index)];
        let is_followed = |older: &&crate::connection::Connection| {
            channel == Some(channel_id(older.key))
                && older.key != connection.key
                && older.phase == Phase::Ready
                && !older.is_dialled()
                && (older.peer, older.role, &older.policy)
                    == (connection.peer, connection.role, &connection.policy)
        };
        let place = channel.map(|channel| usize::from(channel.0 as u16));
        let older = place.and_then(|place| self.connections.get(place)).filter(is_followed);
        let follows = older.map(|older| older.key);
        self.connections[usize::from(index)].follows = follows;
    }
}
