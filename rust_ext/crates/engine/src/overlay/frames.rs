//! Datagram frames that came in during one turn, kept in one buffer until the edge takes them. No allocation per datagram.

use l4proxy_wire::channel::{Frame, frames};

use super::ChannelKey;

/// Most bytes of frames in one turn; a receive batch is smaller.
const MAX_BYTES: usize = 4 << 20;

/// Frames of one turn with the channels they came on.
#[derive(Debug, Default)]
pub(crate) struct FrameArena {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<(ChannelKey, usize)>,
}

impl FrameArena {
    /// Keep one frame. False: there is no room, it is dropped.
    pub(super) fn push(&mut self, channel: ChannelKey, frame: &Frame<'_>) -> bool {
        if self.bytes.len() >= MAX_BYTES || frame.encode(&mut self.bytes).is_err() {
            return false;
        }
        self.ends.push((channel, self.bytes.len()));
        true
    }

    /// Whether nothing came.
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many came.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Every frame in order of arrival.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ChannelKey, Frame<'_>)> {
        let mut start = 0;
        self.ends.iter().filter_map(move |&(channel, end)| {
            let bytes = &self.bytes[start..end];
            start = end;
            frames(bytes).next().and_then(Result::ok).map(|frame| (channel, frame))
        })
    }

    /// Forget everything and keep the memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}
