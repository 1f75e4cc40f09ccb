//! Where the far end of a link is that moves: a PoP behind NAT, which dials out from an address that nobody knows beforehand and that its
//! NAT may change at any time (`docs/protocol.md` section 7, "PoPs behind NAT"). Decides only; it sends nothing and knows no keys.
//!
//! Packets go to the *current* address. An authenticated packet that is no replay makes the address it came from the *candidate*; the
//! link's next probe request goes there, and the reply to just that request, from just that address, makes it the current one. So whoever
//! replays, forges or holds packets back moves nothing: he would have to carry our request to the PoP and its answer back, and could then
//! as well carry everything.

use std::net::SocketAddr;

/// Of one link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Whereabouts {
    current: Option<SocketAddr>,
    candidate: Option<SocketAddr>,
    asked: Option<Asked>,
}

/// Which requests went to a candidate: several may be on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    address: SocketAddr,
    newest: u32,
    /// Bit *i*: `newest − i` went there.
    requests: u64,
}

impl Asked {
    const fn asks(&self, sequence: u32) -> bool {
        let age = self.newest.wrapping_sub(sequence);
        age < u64::BITS && self.requests >> age & 1 == 1
    }
}

impl Whereabouts {
    /// One that is known to be at an address already.
    pub const fn at(current: Option<SocketAddr>) -> Self {
        Self { current, candidate: None, asked: None }
    }

    /// Where packets go; `None`: it has not been heard yet.
    pub const fn current(&self) -> Option<SocketAddr> {
        self.current
    }

    /// An authenticated packet of the link, no replay, came from this address. True: the link is to be probed at once.
    pub fn on_heard(&mut self, from: SocketAddr) -> bool {
        if self.current == Some(from) {
            // It is where it was: what came from elsewhere meanwhile was an older mapping, or somebody's copy.
            (self.candidate, self.asked) = (None, None);
            return false;
        }
        self.candidate = Some(from);
        true
    }

    /// A probe request is about to be sent, its sequence above all before: where to. `None`: nowhere is known.
    pub fn on_request(&mut self, sequence: u32) -> Option<SocketAddr> {
        match self.candidate.take() {
            Some(candidate) => {
                let before = self.asked.filter(|asked| asked.address == candidate);
                let requests = before.map_or(0, |asked| {
                    asked.requests.checked_shl(sequence.wrapping_sub(asked.newest)).unwrap_or(0)
                });
                self.asked = Some(Asked { address: candidate, newest: sequence, requests: requests | 1 });
                Some(candidate)
            }
            None => self.current,
        }
    }

    /// The authenticated reply to the request with this sequence came from this address. True: the current address has changed.
    pub fn on_reply(&mut self, sequence: u32, from: SocketAddr) -> bool {
        if !self.asked.is_some_and(|asked| asked.address == from && asked.asks(sequence)) {
            return false;
        }
        self.asked = None;
        self.current.replace(from) != Some(from)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, 1], port))
    }

    /// At port 1, by a probe that was answered.
    fn settled() -> Whereabouts {
        let mut found = Whereabouts::default();
        assert!(found.on_heard(address(1)));
        assert_eq!(found.on_request(10), Some(address(1)));
        assert!(found.on_reply(10, address(1)));
        found
    }

    #[test]
    fn nothing_goes_anywhere_before_something_authenticated_came() {
        let mut found = Whereabouts::default();
        assert_eq!((found.current(), found.on_request(1)), (None, None));
        assert!(!found.on_reply(1, address(1)), "an answer to what was not asked");
    }

    #[test]
    fn the_address_moves_when_the_request_that_was_sent_there_is_answered_from_there() {
        let mut found = settled();
        assert!(found.on_heard(address(2)));
        assert_eq!(found.current(), Some(address(1)), "not by what was heard alone");
        assert_eq!(found.on_request(11), Some(address(2)));
        assert_eq!(
            found.on_request(12),
            Some(address(1)),
            "one request is enough, the next goes where packets go"
        );
        assert!(found.on_reply(11, address(2)));
        assert_eq!(found.current(), Some(address(2)));
    }

    #[test]
    fn an_answer_that_takes_longer_than_the_next_question_counts() {
        let mut found = settled();
        for sequence in 11..15 {
            found.on_heard(address(2));
            assert_eq!(found.on_request(sequence), Some(address(2)));
        }
        assert!(found.on_reply(11, address(2)));
        assert_eq!(found.current(), Some(address(2)));
    }

    #[test]
    fn neither_another_request_nor_another_address_moves_it() {
        let mut found = settled();
        found.on_heard(address(2));
        found.on_request(11);
        assert!(!found.on_reply(10, address(2)), "a reply from before");
        assert!(!found.on_reply(11, address(3)), "the right reply from a third address");
        assert_eq!(found.current(), Some(address(1)));
    }

    #[test]
    fn a_copy_from_elsewhere_is_forgotten_when_the_peer_is_heard_where_it_was() {
        let mut found = settled();
        found.on_heard(address(9));
        found.on_request(11);
        assert!(!found.on_heard(address(1)));
        assert!(!found.on_reply(11, address(9)));
        assert_eq!((found.current(), found.on_request(12)), (Some(address(1)), Some(address(1))));
    }

    proptest! {
        /// Whatever is heard and asked in whatever order: it is only ever where a request went and was answered from.
        #[test]
        fn it_is_only_where_a_request_was_answered(steps in prop::collection::vec((0_u8..3, 0_u32..6, 1_u16..4), 1..60)) {
            let mut found = Whereabouts::default();
            let mut sent = Vec::new();
            let mut next = 0;
            for (step, sequence, port) in steps {
                let before = found.current();
                match step {
                    0 => { found.on_heard(address(port)); }
                    1 => {
                        sent.extend(found.on_request(next).map(|to| (next, to)));
                        next += 1;
                    }
                    _ => {
                        let has_moved = found.on_reply(sequence, address(port));
                        prop_assert_eq!(has_moved, found.current() != before);
                        prop_assert!(!has_moved || sent.contains(&(sequence, address(port))));
                        continue;
                    }
                }
                prop_assert_eq!(found.current(), before);
            }
        }
    }
}
