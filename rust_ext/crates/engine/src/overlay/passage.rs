//! Packets on their way through this PoP: rewritten where they were received and sent from there, so that nothing is copied, and what
//! the kernel handed over as one message leaves as one. Only for the time of one receive batch; no flow is known here.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::ops::Range;

use l4proxy_io::udp::{Outgoing, RecvBatch};

use super::Overlay;
use super::transmit::Flushed;

/// Packets of one received message that leave together.
#[derive(Debug, Clone)]
struct Run {
    /// Which message of the batch.
    place: usize,
    range: Range<usize>,
    /// Where they go: an own socket, an address.
    link: usize,
    segment_size: usize,
    ecn_bits: u8,
}

/// What of one receive batch goes on to another PoP.
#[derive(Debug, Default)]
pub(super) struct Passage {
    runs: Vec<Run>,
}

impl Passage {
    /// The packet at `range` of message `place` goes on over `link`. `segment_size`: that of its message.
    pub(super) fn push(
        &mut self,
        place: usize,
        range: Range<usize>,
        link: usize,
        segment_size: usize,
        ecn_bits: u8,
    ) {
        if let Some(last) = self.runs.last_mut()
            && (last.place, last.link) == (place, link)
            && last.range.end == range.start
            && range.len() <= segment_size
        {
            last.range.end = range.end;
            return;
        }
        self.runs.push(Run { place, range, link, segment_size, ecn_bits });
    }
}

impl Overlay {
    /// Send what passes, straight from the batch that it came in.
    pub(super) fn send_passage(&mut self, batch: &RecvBatch) {
        if self.passage.runs.is_empty() {
            return;
        }
        let tables = self.tables.clone();
        let mut flushed = Flushed::default();
        let mut lost = 0;
        for index in 0..self.transmitter.socket_count() {
            let local = self.transmitter.socket(index).map(|socket| socket.local);
            let here = self.passage.runs.iter().filter_map(|run| {
                let link = tables.links.get(run.link)?;
                let destination = link.destination().filter(|_| Some(link.local) == local)?;
                link.on_sent(run.range.len());
                Some(message(run, destination, batch.bytes(run.place)))
            });
            let messages: Vec<_> = here.collect();
            lost += messages.len();
            self.transmitter.send_now(index, &messages, &mut flushed);
        }
        let without_socket = self.passage.runs.len() - lost;
        self.passage.runs.clear();
        for _ in 0..without_socket {
            self.drop_packet("no_overlay_socket");
        }
        self.count_flushed(flushed);
    }
}

fn message<'a>(run: &Run, destination: SocketAddr, bytes: &'a [u8]) -> Outgoing<'a> {
    let bytes = &bytes[run.range.clone()];
    let segment_size = if bytes.len() > run.segment_size {
        u16::try_from(run.segment_size).ok().and_then(NonZeroU16::new)
    } else {
        None
    };
    Outgoing {
        bytes,
        destination: Some(destination),
        source: None,
        tos: (run.ecn_bits != 0).then_some(run.ecn_bits),
        segment_size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(packets: &[(usize, Range<usize>, usize)]) -> Vec<(usize, Range<usize>)> {
        let mut passage = Passage::default();
        for (place, range, link) in packets {
            passage.push(*place, range.clone(), *link, 100, 0);
        }
        passage.runs.into_iter().map(|run| (run.link, run.range)).collect()
    }

    #[test]
    fn neighbours_for_one_link_leave_as_one_message() {
        let whole = runs(&[(0, 0..100, 7), (0, 100..200, 7), (0, 200..250, 7)]);
        assert_eq!(whole, [(7, 0..250)]);
    }

    #[test]
    fn another_link_another_message_or_a_gap_begins_a_new_one() {
        assert_eq!(runs(&[(0, 0..100, 7), (0, 100..200, 8), (0, 200..300, 7)]).len(), 3);
        assert_eq!(runs(&[(0, 0..100, 7), (1, 100..200, 7)]).len(), 2);
        assert_eq!(runs(&[(0, 0..100, 7), (0, 200..300, 7)]).len(), 2, "one between them was dropped");
    }
}
