//! Sends probes over outgoing links and makes samples of what comes back, or does not.
//!
//! **Seldom and sure.** A link may be probed so seldom that three lost probes in a row would take minutes. So when a probe ends otherwise
//! than the one before it (lost, or answered again), and when a link is new, the next are [`CONFIRM_INTERVAL`] apart until
//! [`CONFIRM_PROBES`] of them have been sent: whoever judges by several in a row knows within some two seconds more, at any interval.
//! A link that answers every other probe is not asked without end: such probes come out of an allowance that regular ones fill.
//!
//! After every input call [`Prober::poll_probe`] and [`Prober::poll_lost`] until they give nothing, then wait until
//! [`Prober::poll_timeout`]. Drain the socket before `poll_lost`, so that a pause of this process does not turn replies that wait in
//! the socket into losses.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use l4proxy_wire::DropReason;
use l4proxy_wire::ids::{LinkId, PopId};
use l4proxy_wire::probe::{ProbeReply, ProbeRequest};

use crate::sequence::{MIN_INTERVAL, first_sequence};

/// A request is lost when its reply has not come after this. Longer than any path on Earth takes, with its queues (some 0.6 s).
const LOSS_TIMEOUT: Duration = Duration::from_secs(1);

/// Links that are probed, at most: a full mesh of 200 PoPs with five providers each. The rest is counted and not probed.
const MAX_LINKS: usize = 1_000;

/// Requests per link that are remembered, to tell late replies from replayed ones. At the fastest interval 20 of them can be outstanding.
const MAX_REMEMBERED: usize = 64;

/// The longest interval that is taken; beyond it nobody would call a link measured.
const MAX_INTERVAL: Duration = Duration::from_secs(3_600);

/// Between probes that confirm what the last one said: with the [`LOSS_TIMEOUT`] the third of three lost ones is known two seconds after
/// the first, as long as a burst of loss may last that is no outage.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(500);

/// How many confirm: with the one that was a surprise one more than the three in a row by which links are judged, because what
/// was asked before the link changed may still come in between.
const CONFIRM_PROBES: u32 = 3;

/// Probes of that kind that a link has at most; every regular one adds one. So a link costs at most twice what its interval says, and
/// three surprises in a row are confirmed at any interval.
const MAX_CONFIRM_ALLOWANCE: u32 = 9;

/// First probes of different links are this far apart, so that they are not all sent in one burst.
const STAGGER: Duration = Duration::from_millis(3);

/// An outgoing link to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeLink {
    /// Its id.
    pub id: LinkId,
    /// Where it ends.
    pub peer: PopId,
    /// Between two requests; less than 50 ms is taken as 50 ms, more than an hour as an hour.
    pub interval: Duration,
}

/// A request to encode with the key of `peer` and to send over its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeToSend {
    /// Who is asked.
    pub peer: PopId,
    /// What; its `link` says which way.
    pub request: ProbeRequest,
}

/// The result of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The link that was probed.
    pub link: LinkId,
    /// The request's number.
    pub sequence: u32,
    /// When the request was sent, in ns of this PoP's wall clock.
    pub sent_ns: u64,
    /// There and back without the time at the responder, in ns. `None`: no reply within 1 s.
    pub rtt_ns: Option<u64>,
    /// When the request arrived, in ns of the peer's wall clock.
    pub received_ns: Option<u64>,
    /// Requests that the peer has received on this link so far, modulo 2³². It begins again when the peer does.
    pub peer_received: Option<u32>,
}

/// What the bounds have refused since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProberCounters {
    /// Links not probed because there were more than the table holds.
    pub links_full: u64,
    /// Requests not sent because too many of the link were outstanding: nobody has called `poll_lost`.
    pub outstanding_full: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Waiting,
    Done,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    sequence: u32,
    sent_ns: u64,
    sent: Instant,
    status: Status,
}

#[derive(Debug)]
struct Link {
    peer: PopId,
    interval: Duration,
    next_sequence: u32,
    next_send: Instant,
    /// How the probe that ended last did; `None`: none has.
    was_answered: Option<bool>,
    /// Probes that are still to confirm what the last one said.
    confirming: u32,
    /// Probes of that kind that may still be sent.
    allowance: u32,
    /// In the order they were sent.
    remembered: VecDeque<Remembered>,
}

impl Link {
    fn next_loss(&self) -> Option<Instant> {
        let waiting = self.remembered.iter().find(|request| request.status == Status::Waiting)?;
        Some(waiting.sent + LOSS_TIMEOUT)
    }

    /// A probe has ended; a surprise is confirmed soon.
    fn end(&mut self, now: Instant, is_answered: bool) {
        if self.was_answered.replace(is_answered) == Some(is_answered) {
            return;
        }
        self.confirming = CONFIRM_PROBES.min(self.allowance);
        if self.confirming > 0 {
            let last = self.remembered.back().map_or(now, |request| request.sent + CONFIRM_INTERVAL);
            self.next_send = self.next_send.min(last.max(now));
        }
    }

    /// How long after a request the next one is sent.
    fn take_interval(&mut self) -> Duration {
        if self.confirming == 0 || self.interval <= CONFIRM_INTERVAL {
            self.allowance = (self.allowance + 1).min(MAX_CONFIRM_ALLOWANCE);
            return self.interval;
        }
        self.confirming -= 1;
        self.allowance = self.allowance.saturating_sub(1);
        if self.confirming == 0 { self.interval } else { CONFIRM_INTERVAL }
    }
}

/// Probes all outgoing links of this PoP.
#[derive(Debug)]
pub struct Prober {
    origin: Instant,
    links: BTreeMap<LinkId, Link>,
    counters: ProberCounters,
}

impl Prober {
    /// Without links. `origin` is when the process started: it must be the same for every prober in the process's life,
    /// because it is what keeps sequences from being used twice under one key.
    pub const fn new(origin: Instant) -> Self {
        Self {
            origin,
            links: BTreeMap::new(),
            counters: ProberCounters { links_full: 0, outstanding_full: 0 },
        }
    }

    /// Replaces the links; one that stays goes on as it was, at its new interval.
    pub fn set_links(&mut self, now: Instant, links: &[ProbeLink]) {
        let mut before = std::mem::take(&mut self.links);
        for (place, link) in links.iter().enumerate() {
            if self.links.len() == MAX_LINKS && !self.links.contains_key(&link.id) {
                self.counters.links_full += 1;
                continue;
            }
            let interval = link.interval.clamp(MIN_INTERVAL, MAX_INTERVAL);
            let kept = before.remove(&link.id).filter(|kept| kept.peer == link.peer);
            let kept =
                kept.map(|kept| Link { interval, next_send: kept.next_send.min(now + interval), ..kept });
            let new = || Link {
                peer: link.peer,
                interval,
                next_sequence: first_sequence(self.origin, now),
                next_send: now + (STAGGER * place as u32).min(interval),
                was_answered: None,
                confirming: 0,
                allowance: MAX_CONFIRM_ALLOWANCE,
                remembered: VecDeque::new(),
            };
            self.links.insert(link.id, kept.unwrap_or_else(new));
        }
    }

    /// A link is to be probed at once, or 50 ms after its last request, the shortest interval, if that was less long ago.
    pub fn hurry(&mut self, now: Instant, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            let last = link.remembered.back().map(|request| request.sent + MIN_INTERVAL);
            link.next_send = link.next_send.min(last.map_or(now, |last| last.max(now)));
        }
    }

    /// The next request that is due. `now_ns` is the present of the wall clock.
    pub fn poll_probe(&mut self, now: Instant, now_ns: u64) -> Option<ProbeToSend> {
        for (&id, link) in &mut self.links {
            if link.next_send > now {
                continue;
            }
            // What a pause has made late is not caught up with: a burst would measure itself.
            let interval = link.take_interval();
            let next = link.next_send + interval;
            link.next_send = if next > now { next } else { now + interval };
            if link.remembered.len() == MAX_REMEMBERED {
                if link.remembered.front().is_some_and(|oldest| oldest.status == Status::Waiting) {
                    self.counters.outstanding_full += 1;
                    continue;
                }
                link.remembered.pop_front();
            }
            let sequence = link.next_sequence;
            link.next_sequence = sequence.wrapping_add(1);
            let status = Status::Waiting;
            link.remembered.push_back(Remembered { sequence, sent_ns: now_ns, sent: now, status });
            let request = ProbeRequest { link: id, sequence, sent_ns: now_ns };
            return Some(ProbeToSend { peer: link.peer, request });
        }
        None
    }

    /// Makes a sample of a reply that `peer` has sent. `received_ns` is the kernel's timestamp of it, of this PoP's wall clock.
    ///
    /// # Errors
    /// `probe_link`, `probe_replayed`, `probe_late`, `probe_impossible`. The last gives no sample at all, not even a lost one: nothing is known.
    pub fn handle_reply(
        &mut self,
        now: Instant,
        peer: PopId,
        reply: &ProbeReply,
        received_ns: u64,
    ) -> Result<Sample, DropReason> {
        let request = &reply.request;
        let link = self.links.get_mut(&request.link).filter(|link| link.peer == peer);
        let link = link.ok_or(DropReason::ProbeLink)?;
        let remembered = link
            .remembered
            .iter_mut()
            .find(|sent| (sent.sequence, sent.sent_ns) == (request.sequence, request.sent_ns))
            .ok_or(DropReason::ProbeReplayed)?;
        match remembered.status {
            Status::Waiting => {}
            Status::Done => return Err(DropReason::ProbeReplayed),
            Status::Lost => return Err(DropReason::ProbeLate),
        }
        let rtt_ns = match round_trip_ns(remembered, now, reply, received_ns) {
            Ok(rtt_ns) => rtt_ns,
            // It stays outstanding, and `poll_lost` makes the lost sample.
            Err(DropReason::ProbeLate) => return Err(DropReason::ProbeLate),
            Err(reason) => {
                remembered.status = Status::Done;
                return Err(reason);
            }
        };
        remembered.status = Status::Done;
        link.end(now, true);
        Ok(Sample {
            link: request.link,
            sequence: request.sequence,
            sent_ns: request.sent_ns,
            rtt_ns: Some(rtt_ns),
            received_ns: Some(reply.received_ns),
            peer_received: Some(reply.received_count),
        })
    }

    /// The next request whose reply has not come in time.
    pub fn poll_lost(&mut self, now: Instant) -> Option<Sample> {
        for (&id, link) in &mut self.links {
            if link.next_loss().is_none_or(|at| at > now) {
                continue;
            }
            let waiting = link.remembered.iter_mut().find(|request| request.status == Status::Waiting)?;
            waiting.status = Status::Lost;
            let (sequence, sent_ns) = (waiting.sequence, waiting.sent_ns);
            link.end(now, false);
            return Some(Sample {
                link: id,
                sequence,
                sent_ns,
                rtt_ns: None,
                received_ns: None,
                peer_received: None,
            });
        }
        None
    }

    /// When to poll next; `None` while there are no links.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of = |link: &Link| link.next_loss().map_or(link.next_send, |loss| loss.min(link.next_send));
        self.links.values().map(of).min()
    }

    /// What the bounds have refused since the start.
    pub const fn counters(&self) -> ProberCounters {
        self.counters
    }
}

/// The time on the wire. The peer is authenticated, but its clock or ours may have stepped, or it may be wrong.
fn round_trip_ns(
    sent: &Remembered,
    now: Instant,
    reply: &ProbeReply,
    received_ns: u64,
) -> Result<u64, DropReason> {
    let whole_ns = received_ns.checked_sub(sent.sent_ns).ok_or(DropReason::ProbeImpossible)?;
    let rtt_ns = whole_ns.checked_sub(reply.residence_ns).ok_or(DropReason::ProbeImpossible)?;
    // The clocks of both differ by what a slewing NTP daemon corrects: 0.05 % of at most seconds.
    let clock_slack = Duration::from_millis(5);
    if Duration::from_nanos(whole_ns) > now.saturating_duration_since(sent.sent) + clock_slack {
        return Err(DropReason::ProbeImpossible);
    }
    if whole_ns > LOSS_TIMEOUT.as_nanos() as u64 { Err(DropReason::ProbeLate) } else { Ok(rtt_ns) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINK: LinkId = LinkId(1);
    const PEER: PopId = PopId(7);
    /// An arbitrary wall clock at the origin.
    const WALL_NS: u64 = 1_700_000_000_000_000_000;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    fn origin() -> Instant {
        Instant::now()
    }

    /// A prober in virtual time.
    struct Bench {
        origin: Instant,
        prober: Prober,
    }

    impl Bench {
        fn new(links: &[ProbeLink]) -> Self {
            let origin = origin();
            let mut prober = Prober::new(origin);
            prober.set_links(origin, links);
            Self { origin, prober }
        }

        fn one() -> Self {
            Self::new(&[ProbeLink { id: LINK, peer: PEER, interval: ms(100) }])
        }

        fn poll(&mut self, at_ms: u64) -> Vec<ProbeRequest> {
            let (now, now_ns) = (self.origin + ms(at_ms), WALL_NS + at_ms * 1_000_000);
            std::iter::from_fn(|| self.prober.poll_probe(now, now_ns)).map(|probe| probe.request).collect()
        }

        fn reply(&mut self, at_ms: u64, reply: &ProbeReply) -> Result<Sample, DropReason> {
            let received_ns = WALL_NS + at_ms * 1_000_000;
            self.prober.handle_reply(self.origin + ms(at_ms), PEER, reply, received_ns)
        }

        fn lost(&mut self, at_ms: u64) -> Vec<Sample> {
            std::iter::from_fn(|| self.prober.poll_lost(self.origin + ms(at_ms))).collect()
        }
    }

    fn reply_to(request: ProbeRequest) -> ProbeReply {
        ProbeReply { request, received_count: 1, received_ns: 99, residence_ns: 500_000 }
    }

    #[test]
    fn a_link_in_a_hurry_is_probed_at_once_but_never_more_often_than_every_50_ms() {
        let mut bench = Bench::new(&[ProbeLink { id: LINK, peer: PEER, interval: ms(1_000) }]);
        assert_eq!(bench.poll(0).len(), 1);
        for at in (10..=200).step_by(10) {
            let now = bench.origin + ms(at);
            bench.prober.hurry(now, LINK);
            bench.prober.hurry(now, LinkId(77));
            assert_eq!(bench.poll(at).len(), usize::from(at.is_multiple_of(50)), "at {at} ms");
        }
        assert_eq!(bench.poll(1_199).len(), 0, "then an interval after the last");
        assert_eq!(bench.poll(1_200).len(), 1);
    }

    #[test]
    fn requests_go_out_once_per_interval_and_count_by_one() {
        let mut bench = Bench::one();
        let sent: Vec<_> = (0..=1_000).flat_map(|at| bench.poll(at)).collect();
        let sequences: Vec<_> = sent.iter().map(|request| request.sequence).collect();
        assert_eq!(sequences, (0..11).collect::<Vec<_>>());
        let times: Vec<_> = sent.iter().map(|request| (request.sent_ns - WALL_NS) / 1_000_000).collect();
        assert_eq!(times, (0..11).map(|n| n * 100).collect::<Vec<_>>());
    }

    #[test]
    fn a_reply_becomes_a_sample_without_the_time_at_the_responder() {
        let mut bench = Bench::one();
        let request = bench.poll(0)[0];
        let expected = Sample {
            link: LINK,
            sequence: 0,
            sent_ns: WALL_NS,
            rtt_ns: Some(29_500_000),
            received_ns: Some(99),
            peer_received: Some(1),
        };
        assert_eq!(bench.reply(30, &reply_to(request)), Ok(expected));
        assert_eq!(bench.reply(31, &reply_to(request)), Err(DropReason::ProbeReplayed));
        assert_eq!(bench.lost(5_000), []);
    }

    #[test]
    fn without_a_reply_for_a_second_it_is_lost_and_a_reply_after_that_is_late() {
        let mut bench = Bench::one();
        let request = bench.poll(0)[0];
        assert_eq!(bench.prober.poll_timeout(), Some(bench.origin + ms(100)));
        assert_eq!(bench.lost(999), []);
        let lost = bench.lost(1_000);
        assert_eq!(lost.len(), 1);
        assert_eq!((lost[0].sequence, lost[0].rtt_ns), (0, None));
        assert_eq!(bench.reply(1_001, &reply_to(request)), Err(DropReason::ProbeLate));
        assert_eq!(bench.lost(9_000), [], "lost once");
    }

    #[test]
    fn a_reply_that_waited_in_the_socket_while_we_were_stopped_is_not_late() {
        let mut bench = Bench::one();
        let request = bench.poll(0)[0];
        let (now, received_ns) = (bench.origin + ms(3_000), WALL_NS + 30_000_000);
        let sample = bench.prober.handle_reply(now, PEER, &reply_to(request), received_ns);
        assert_eq!(sample.map(|sample| sample.rtt_ns), Ok(Some(29_500_000)));
    }

    #[test]
    fn a_reply_that_really_took_longer_than_a_second_stays_a_loss() {
        let mut bench = Bench::one();
        let request = bench.poll(0)[0];
        assert_eq!(bench.reply(1_200, &reply_to(request)), Err(DropReason::ProbeLate));
        assert_eq!(bench.lost(1_200).len(), 1);
    }

    #[test]
    fn impossible_times_are_refused_and_give_no_sample() {
        let received_before_sent = |bench: &mut Bench, reply: &ProbeReply| {
            bench.prober.handle_reply(bench.origin + ms(30), PEER, reply, WALL_NS - 1)
        };
        let stayed_too_long = |bench: &mut Bench, reply: &ProbeReply| {
            bench.reply(30, &ProbeReply { residence_ns: 30_000_001, ..*reply })
        };
        let clock_stepped = |bench: &mut Bench, reply: &ProbeReply| {
            bench.prober.handle_reply(bench.origin + ms(30), PEER, reply, WALL_NS + 900_000_000)
        };
        type Case = fn(&mut Bench, &ProbeReply) -> Result<Sample, DropReason>;
        for case in [received_before_sent as Case, stayed_too_long, clock_stepped] {
            let mut bench = Bench::one();
            let reply = reply_to(bench.poll(0)[0]);
            assert_eq!(case(&mut bench, &reply), Err(DropReason::ProbeImpossible));
            assert_eq!(bench.lost(9_000), []);
        }
    }

    #[test]
    fn only_the_peer_of_the_link_is_believed_and_only_what_was_asked() {
        let mut bench = Bench::one();
        let request = bench.poll(0)[0];
        let reply = reply_to(request);
        let now = bench.origin + ms(1);
        assert_eq!(bench.prober.handle_reply(now, PopId(8), &reply, WALL_NS), Err(DropReason::ProbeLink));
        let elsewhere = ProbeRequest { link: LinkId(2), ..request };
        assert_eq!(bench.reply(1, &reply_to(elsewhere)), Err(DropReason::ProbeLink));
        for never_sent in [ProbeRequest { sequence: 1, ..request }, ProbeRequest { sent_ns: 1, ..request }] {
            assert_eq!(bench.reply(1, &reply_to(never_sent)), Err(DropReason::ProbeReplayed));
        }
    }

    #[test]
    fn links_are_staggered_and_not_faster_than_twenty_hertz() {
        let link = |id| ProbeLink { id: LinkId(id), peer: PEER, interval: ms(1) };
        let mut bench = Bench::new(&[link(1), link(2), link(3)]);
        let sent: Vec<_> =
            (0..60).flat_map(|at| bench.poll(at).into_iter().map(move |r| (at, r.link.0))).collect();
        assert_eq!(sent, [(0, 1), (3, 2), (6, 3), (50, 1), (53, 2), (56, 3)]);
    }

    /// Runs a link of this interval for a while; `answers` says whether the probe sent at a millisecond is answered, 20 ms later.
    /// Returns when probes were sent, and when each ended and how.
    fn run(
        interval: Duration,
        until_ms: u64,
        answers: impl Fn(u64, usize) -> bool,
    ) -> (Vec<u64>, Vec<(u64, bool)>) {
        let mut bench = Bench::new(&[ProbeLink { id: LINK, peer: PEER, interval }]);
        let (mut sent, mut ended) = (Vec::new(), Vec::new());
        let mut replies = BTreeMap::new();
        for at in 0..=until_ms {
            if let Some(request) = replies.remove(&at) {
                assert!(bench.reply(at, &reply_to(request)).is_ok());
                ended.push((at, true));
            }
            ended.extend(bench.lost(at).iter().map(|_| (at, false)));
            for request in bench.poll(at) {
                if answers(at, sent.len()) {
                    replies.insert(at + 20, request);
                }
                sent.push(at);
            }
        }
        (sent, ended)
    }

    #[test]
    fn a_new_link_that_is_probed_seldom_is_known_by_three_answers_within_a_second_and_a_half() {
        let (sent, ended) = run(ms(30_000), 40_000, |_, _| true);
        assert_eq!(sent, [0, 500, 1_000, 1_500, 31_500]);
        assert_eq!(ended[2], (1_020, true));
    }

    #[test]
    fn a_loss_and_a_return_are_confirmed_within_two_seconds_whatever_the_interval() {
        let (sent, ended) = run(ms(30_000), 100_000, |at, _| !(20_000..70_000).contains(&at));
        let lost: Vec<_> = ended.iter().filter(|(_, answered)| !answered).map(|(at, _)| at).collect();
        assert_eq!(sent[4..], [31_500, 32_500, 33_000, 33_500, 63_500, 93_500, 94_000, 94_500, 95_000]);
        assert_eq!(lost, [&32_500, &33_500, &34_000, &34_500, &64_500]);
        assert_eq!(ended[11], (94_520, true), "the third answer in a row");
    }

    #[test]
    fn a_link_that_answers_every_other_probe_costs_at_most_twice_what_its_interval_says() {
        let (sent, _) = run(ms(10_000), 1_000_000, |_, number| number % 2 == 0);
        let bound = 2 * 101 + MAX_CONFIRM_ALLOWANCE as usize;
        assert!((120..=bound).contains(&sent.len()), "{} probes", sent.len());
    }

    #[test]
    fn a_pause_is_not_made_up_for_in_a_burst() {
        let mut bench = Bench::one();
        assert_eq!(bench.poll(0).len(), 1);
        assert_eq!(bench.poll(10_050).len(), 1);
        assert_eq!(bench.poll(10_149).len(), 0);
        assert_eq!(bench.poll(10_150).len(), 1);
    }

    #[test]
    fn a_link_that_comes_back_does_not_use_a_sequence_twice() {
        let mut bench = Bench::new(&[ProbeLink { id: LINK, peer: PEER, interval: ms(50) }]);
        let last = (0..=1_000).flat_map(|at| bench.poll(at)).last().unwrap();
        bench.prober.set_links(bench.origin + ms(1_000), &[]);
        assert_eq!(bench.prober.poll_timeout(), None);
        let back = ProbeLink { id: LINK, peer: PEER, interval: ms(50) };
        bench.prober.set_links(bench.origin + ms(1_000), &[back]);
        assert!(bench.poll(1_000)[0].sequence > last.sequence);
    }

    #[test]
    fn a_link_that_stays_keeps_what_is_outstanding_and_takes_its_new_interval() {
        let mut bench = Bench::new(&[ProbeLink { id: LINK, peer: PEER, interval: ms(5_000) }]);
        let request = bench.poll(0)[0];
        bench
            .prober
            .set_links(bench.origin + ms(10), &[ProbeLink { id: LINK, peer: PEER, interval: ms(50) }]);
        assert!(bench.reply(20, &reply_to(request)).is_ok());
        assert_eq!(bench.poll(60)[0].sequence, 1);
    }

    #[test]
    fn full_tables_refuse_and_count() {
        let links: Vec<_> =
            (0..1_002).map(|id| ProbeLink { id: LinkId(id), peer: PEER, interval: ms(100) }).collect();
        let bench = Bench::new(&links);
        assert_eq!(bench.prober.counters(), ProberCounters { links_full: 2, outstanding_full: 0 });

        let mut bench = Bench::one();
        let sent = (0..7_000).step_by(100).map(|at| bench.poll(at).len()).sum::<usize>();
        assert_eq!(sent, MAX_REMEMBERED, "nobody has polled for losses");
        assert_eq!(bench.prober.counters().outstanding_full, 6);
        assert_eq!(bench.lost(7_000).len(), MAX_REMEMBERED - 3);
        assert_eq!(bench.poll(7_000).len(), 1);
    }

    proptest! {
        #[test]
        fn every_request_ends_in_exactly_one_sample(
            seed in prop::collection::vec((0_u64..1_500, any::<bool>()), 1..40),
        ) {
            let mut bench = Bench::one();
            let mut replies: BTreeMap<u64, Vec<ProbeReply>> = BTreeMap::new();
            let (mut sent, mut sampled) = (Vec::new(), Vec::new());
            let end = seed.len() as u64 * 100;
            for at in 0..end + 2_000 {
                for request in if at < end { bench.poll(at) } else { Vec::new() } {
                    let (delay, comes) = seed[sent.len()];
                    sent.push(request.sequence);
                    if comes {
                        replies.entry(at + delay.max(1)).or_default().push(reply_to(request));
                    }
                }
                for reply in replies.remove(&at).unwrap_or_default() {
                    sampled.extend(bench.reply(at, &reply).ok().map(|sample| sample.sequence));
                }
                sampled.extend(bench.lost(at).iter().map(|sample| sample.sequence));
            }
            sampled.sort_unstable();
            prop_assert_eq!(sampled, sent);
        }
    }
}
