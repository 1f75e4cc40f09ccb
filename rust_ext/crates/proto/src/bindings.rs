//! Which number in which channel means which UDP session, at both ends (docs/protocol.md section 5): the part of a session that follows from
//! OPEN_DATA, BOUND, DATA, SESSION_UNKNOWN and CLOSE, and from channels that end. Frames, sockets and deadlines are the caller's.
//!
//! The ingress PoP *asks* ([`Asks`]): it remembers over which channel it asked for a flow, so that only that channel's answer counts, and
//! what number it was given. The egress PoP *grants* ([`Grants`]). `C` names a channel and is never used again for another one.
//! Tables are as large as the caller's table of sessions: one entry for each session in each of them.

use std::hash::Hash;

use hashbrown::HashMap;
use l4proxy_wire::ids::{FlowId, SessionId};

/// Where a session is known: in a channel, under a number that the egress PoP gave.
pub type Place<C> = (C, SessionId);

/// What the ingress PoP knows of one session's egress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<C> {
    channel: Option<C>,
    bound: Option<Place<C>>,
}

/// What became of a session when a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Its OPEN_DATA had gone there.
    pub was_asked: bool,
    /// It was bound there: its next datagram opens it again.
    pub was_bound: bool,
}

impl<C: Copy + Eq> Asked<C> {
    /// Nobody has been asked.
    #[must_use]
    pub const fn new() -> Self {
        Self { channel: None, bound: None }
    }

    /// OPEN_DATA went out over a channel: from now on only its answers count.
    pub fn on_asked(&mut self, channel: C) {
        self.channel = Some(channel);
    }

    /// Whether answers of this channel count.
    #[must_use]
    pub fn is_asked(&self, channel: C) -> bool {
        self.channel == Some(channel)
    }

    /// Where DATA goes; None: OPEN_DATA is due.
    #[must_use]
    pub const fn bound(&self) -> Option<Place<C>> {
        self.bound
    }

    /// A channel has ended.
    pub fn on_channel_gone(&mut self, channel: C) -> Left {
        let was_asked = self.channel.take_if(|asked| *asked == channel).is_some();
        let was_bound = self.bound.take_if(|(bound, _)| *bound == channel).is_some();
        Left { was_asked, was_bound }
    }

    /// The egress PoP does not know the session any more.
    pub fn unbind(&mut self) {
        self.bound = None;
    }
}

impl<C: Copy + Eq> Default for Asked<C> {
    fn default() -> Self {
        Self::new()
    }
}

/// The sessions of an ingress PoP that another PoP is asked for, by flow and by the number that was given.
#[derive(Debug, Clone)]
pub struct Asks<C> {
    by_flow: HashMap<FlowId, u32>,
    by_place: HashMap<Place<C>, u32>,
}

impl<C> Default for Asks<C> {
    fn default() -> Self {
        Self { by_flow: HashMap::new(), by_place: HashMap::new() }
    }
}

impl<C: Copy + Eq + Hash> Asks<C> {
    /// Session `number` has a flow that another PoP is to be asked for.
    pub fn begin(&mut self, flow: FlowId, number: u32) {
        self.by_flow.insert(flow, number);
    }

    /// Forget a session. Returns where it was bound, for a CLOSE.
    pub fn end(&mut self, flow: FlowId, asked: &mut Asked<C>) -> Option<Place<C>> {
        self.by_flow.remove(&flow);
        asked.channel = None;
        let place = asked.bound.take()?;
        self.by_place.remove(&place);
        Some(place)
    }

    /// The session of a flow.
    #[must_use]
    pub fn of_flow(&self, flow: FlowId) -> Option<u32> {
        self.by_flow.get(&flow).copied()
    }

    /// The session that a number in a channel means.
    #[must_use]
    pub fn find(&self, place: Place<C>) -> Option<u32> {
        self.by_place.get(&place).copied()
    }

    /// BOUND came over a channel for session `number`, whose knowledge is `asked`. False: nobody had asked there, nothing changes.
    pub fn on_bound(&mut self, number: u32, asked: &mut Asked<C>, place: Place<C>) -> bool {
        if !asked.is_asked(place.0) {
            return false;
        }
        let before = asked.bound.replace(place);
        if before != Some(place) {
            if let Some(before) = before {
                self.by_place.remove(&before);
            }
            self.by_place.insert(place, number);
        }
        true
    }

    /// SESSION_UNKNOWN or CLOSE came: the number means nothing any more. Returns the session that it meant: [`Asked::unbind`] it.
    pub fn take(&mut self, place: Place<C>) -> Option<u32> {
        self.by_place.remove(&place)
    }

    /// A channel has ended; [`Asked::on_channel_gone`] for every session besides.
    pub fn on_channel_gone(&mut self, channel: C) {
        self.by_place.retain(|place, _| place.0 != channel);
    }
}

/// What the egress PoP knows of one session's ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted<C> {
    place: Option<Place<C>>,
    is_used: bool,
}

impl<C: Copy + Eq> Granted<C> {
    /// Without a number.
    #[must_use]
    pub const fn new() -> Self {
        Self { place: None, is_used: false }
    }

    /// Where its frames go to, and the number that was given there. None: that channel has ended.
    #[must_use]
    pub const fn place(&self) -> Option<Place<C>> {
        self.place
    }

    /// Whether the ingress has used the number, and so knows it: until then answers go as BOUND.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.is_used
    }

    /// DATA came for it.
    pub const fn on_data(&mut self) {
        self.is_used = true;
    }

    /// A channel has ended.
    pub fn on_channel_gone(&mut self, channel: C) {
        if self.place.take_if(|(place, _)| *place == channel).is_some() {
            self.is_used = false;
        }
    }
}

impl<C: Copy + Eq> Default for Granted<C> {
    fn default() -> Self {
        Self::new()
    }
}

/// The sessions of an egress PoP by the numbers that it gave.
#[derive(Debug, Clone)]
pub struct Grants<C> {
    by_place: HashMap<Place<C>, u32>,
    last: u32,
}

impl<C> Default for Grants<C> {
    fn default() -> Self {
        Self { by_place: HashMap::new(), last: 0 }
    }
}

impl<C: Copy + Eq + Hash> Grants<C> {
    /// OPEN_DATA came over a channel for session `number`: the number to answer with, the same as long as the channel is. One in another
    /// channel before means nothing any more.
    pub fn bind(&mut self, number: u32, granted: &mut Granted<C>, channel: C) -> SessionId {
        if let Some((before, session)) = granted.place {
            if before == channel {
                return session;
            }
            self.by_place.remove(&(before, session));
        }
        let session = loop {
            self.last = self.last.wrapping_add(1);
            let session = SessionId(self.last);
            if !self.by_place.contains_key(&(channel, session)) {
                break session;
            }
        };
        self.by_place.insert((channel, session), number);
        *granted = Granted { place: Some((channel, session)), is_used: false };
        session
    }

    /// The session that a number in a channel means.
    #[must_use]
    pub fn find(&self, place: Place<C>) -> Option<u32> {
        self.by_place.get(&place).copied()
    }

    /// Forget a session's number. Returns where it was, for a CLOSE.
    pub fn end(&mut self, granted: &mut Granted<C>) -> Option<Place<C>> {
        granted.is_used = false;
        let place = granted.place.take()?;
        self.by_place.remove(&place);
        Some(place)
    }

    /// A channel has ended; [`Granted::on_channel_gone`] for every session besides.
    pub fn on_channel_gone(&mut self, channel: C) {
        self.by_place.retain(|place, _| place.0 != channel);
    }
}
