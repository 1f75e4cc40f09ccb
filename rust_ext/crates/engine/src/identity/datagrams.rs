//! What a UDP origin is told of a session's client: the header before its datagrams, when it is told again, and what comes off the
//! origin's answers.
//!
//! A header and its payload are one datagram, always. Headers carry no TLVs here: each of their bytes is missing from each payload.

use std::io;
use std::time::{Duration, Instant};

use l4proxy_io::Sent;
use l4proxy_io::udp::UdpSocket;
use l4proxy_wire::proxy::{Endpoints, Transport, v2};
use l4proxy_wire::spp::{self, Spp};

use crate::counters::Dropped;
use crate::edge::udp::send::{dropped_by, is_about_an_earlier_one};
use crate::policy::AnnounceUdp;
use crate::records::FlowMeta;

/// A client that has been sending for so long without any answer may be speaking to an origin that was restarted and has forgotten
/// who it is: with `proxy-v2-first` it is told again, and once more after each such time. Games answer several times a second and
/// voice servers keep alive within two or three, so an origin that lives is not told twice; and a restart lasts longer than this.
/// The first datagram may be lost, too: that costs a client no more than this.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// What one session's origin is told, and when.
#[derive(Debug)]
pub(crate) struct Announcer {
    header: Box<[u8]>,
    when: When,
}

#[derive(Debug)]
enum When {
    /// Before every datagram; answers that begin with the same header lose it.
    EverySpp,
    /// Before every datagram.
    Every,
    /// Before one, and again when the origin may have forgotten.
    First(Memory),
}

/// What the origin may remember.
#[derive(Debug, PartialEq, Eq)]
struct Memory {
    /// The next datagram carries the header.
    is_owed: bool,
    /// Since when datagrams have been sent and not been answered.
    unanswered: Option<Instant>,
}

impl Memory {
    const fn new() -> Self {
        Self { is_owed: true, unanswered: None }
    }

    /// Whether the datagram that is sent now carries the header.
    fn is_due(&self, now: Instant) -> bool {
        self.is_owed || self.unanswered.is_some_and(|since| now.saturating_duration_since(since) >= SILENCE)
    }

    fn on_sent(&mut self, now: Instant, with_header: bool) {
        if with_header {
            (self.is_owed, self.unanswered) = (false, Some(now));
        } else {
            self.unanswered.get_or_insert(now);
        }
    }
}

impl Announcer {
    /// For a session that is dialled here; None: its origin is not told, or sees the client's address itself.
    pub(crate) fn new(meta: &FlowMeta) -> Option<Box<Self>> {
        let (when, header) = match meta.app.policy.announce_udp {
            AnnounceUdp::Off | AnnounceUdp::Transparent => return None,
            AnnounceUdp::Spp => {
                let header = Spp { client: meta.client, proxy: meta.listener }.encode();
                (When::EverySpp, header.to_vec())
            }
            AnnounceUdp::ProxyV2Every => (When::Every, proxy_header(meta)),
            AnnounceUdp::ProxyV2First => (When::First(Memory::new()), proxy_header(meta)),
        };
        Some(Box::new(Self { header: header.into(), when }))
    }

    /// Send a client's datagram, with the header where it belongs. `scratch` is any memory.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        socket: &UdpSocket,
        datagram: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(), Dropped> {
        let with_header = self.puts_header(now);
        let sent = match self.try_send(now, socket, datagram, scratch) {
            Err(error) if is_about_an_earlier_one(&error) => {
                self.on_error(&error);
                self.try_send(now, socket, datagram, scratch)
            }
            other => other,
        };
        match sent {
            Ok(Sent::Bytes(_)) => Ok(()),
            Ok(Sent::WouldBlock) => Err(Dropped::UdpSendFull),
            Err(error) => {
                let reason = dropped_by(&error);
                let is_for_header = with_header && reason == Dropped::UdpTooLarge;
                Err(if is_for_header { Dropped::UdpNoRoomForHeader } else { reason })
            }
        }
    }

    fn try_send(
        &mut self,
        now: Instant,
        socket: &UdpSocket,
        datagram: &[u8],
        scratch: &mut Vec<u8>,
    ) -> io::Result<Sent> {
        let with_header = self.puts_header(now);
        let bytes = if with_header {
            scratch.clear();
            scratch.extend_from_slice(&self.header);
            scratch.extend_from_slice(datagram);
            scratch
        } else {
            datagram
        };
        let sent = socket.send(bytes)?;
        if let (When::First(memory), Sent::Bytes(_)) = (&mut self.when, &sent) {
            memory.on_sent(now, with_header);
        }
        Ok(sent)
    }

    /// Whether the datagram that is sent now carries the header.
    fn puts_header(&self, now: Instant) -> bool {
        match &self.when {
            When::Every | When::EverySpp => true,
            When::First(memory) => memory.is_due(now),
        }
    }

    /// An error told of what was sent before. Where nobody listened a moment ago, whoever does now knows nothing; and a first
    /// datagram that was too large for a hop has told nobody anything.
    fn on_error(&mut self, error: &io::Error) {
        if let When::First(memory) = &mut self.when
            && is_about_an_earlier_one(error)
        {
            memory.is_owed = true;
        }
    }

    /// The origin's socket was read: so many answers, or an error that tells of what was sent.
    pub(crate) fn on_received(&mut self, received: &io::Result<usize>) {
        match (&mut self.when, received) {
            // It lives, and knows.
            (When::First(memory), Ok(1..)) => memory.unanswered = None,
            (When::First(_), Err(error)) => self.on_error(error),
            (When::First(_) | When::Every | When::EverySpp, _) => {}
        }
    }

    /// What comes off an answer that begins with it.
    pub(crate) fn answer_header(&self) -> Option<[u8; spp::LENGTH]> {
        match self.when {
            When::EverySpp => self.header.first_chunk().copied(),
            When::Every | When::First(_) => None,
        }
    }
}

/// An answer without the header that origins put before it, if it has exactly the one of its flow. Receivers differ: some repeat the
/// header, some do not, and payload that looks like another flow's header is payload.
pub(crate) fn payload<'a>(answer: &'a [u8], header: Option<&[u8; spp::LENGTH]>) -> &'a [u8] {
    header.and_then(|header| answer.strip_prefix(header)).unwrap_or(answer)
}

fn proxy_header(meta: &FlowMeta) -> Vec<u8> {
    let mut header = Vec::new();
    let endpoints = Endpoints::Inet { source: meta.client, destination: meta.listener };
    v2::encode(endpoints, Transport::Datagram, v2::Extras::default(), &mut header)
        .expect("addresses alone fit a header");
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn an_origin_is_told_once_while_it_answers() {
        let begin = Instant::now();
        let mut memory = Memory::new();
        for tick in 0..100 {
            let now = begin + MS(tick * 100);
            assert_eq!(memory.is_due(now), tick == 0);
            memory.on_sent(now, tick == 0);
            memory.unanswered = None;
        }
    }

    #[test]
    fn silence_is_sending_without_an_answer_and_not_a_pause() {
        let begin = Instant::now();
        let mut memory = Memory::new();
        memory.on_sent(begin, true);
        memory.unanswered = None;
        let later = begin + Duration::from_secs(60);
        assert!(!memory.is_due(later), "nobody has asked meanwhile");
        memory.on_sent(later, false);
        assert!(!memory.is_due(later + SILENCE - MS(1)));
        memory.on_sent(later + SILENCE - MS(1), false);
        assert!(memory.is_due(later + SILENCE), "the first one unanswered counts, not the last");
        memory.on_sent(later + SILENCE, true);
        assert!(!memory.is_due(later + SILENCE + MS(2_999)));
        assert!(memory.is_due(later + SILENCE * 2), "and once more");
    }

    #[test]
    fn only_the_flows_own_header_comes_off_an_answer() {
        let spp =
            |port| Spp { client: ([192, 0, 2, 1], port).into(), proxy: ([198, 51, 100, 2], 5060).into() };
        let own = spp(1234).encode();
        let with = |header: &[u8]| [header, b"pong"].concat();
        assert_eq!(payload(&with(&own), Some(&own)), b"pong");
        assert_eq!(payload(&own, Some(&own)), b"");
        for other in
            [with(&spp(1235).encode()), with(&own[1..]), b"pong".to_vec(), own[..37].to_vec(), vec![]]
        {
            assert_eq!(payload(&other, Some(&own)), other);
        }
        assert_eq!(payload(&with(&own), None), with(&own));
    }
}
