//! What waits for the daemon: records, events, samples and control messages, bounded, in frames of a sensible size.
//!
//! Records and events are kept for a daemon that is away, as far as there is room; samples would be stale and are thrown away.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::connection::{Connection, ConnectionError};
use crate::messages::{BusFrame, Event, FlowRecord, SampleView, Up};
use crate::shared::MAX_REPORTS;

/// Items of one frame: some 300 kB of records.
const PER_FRAME: usize = 1_000;

/// While this many bytes wait in the connection nothing more is put there, so that answers do not stand behind a heap of records.
const ENOUGH_WAITING: usize = 1 << 20;

/// Samples are sent at most this often.
const SAMPLES_EVERY: Duration = Duration::from_millis(100);

/// The queues.
#[derive(Debug)]
pub(crate) struct Upward {
    pub(crate) records: Queue<FlowRecord>,
    pub(crate) events: Queue<Event>,
    pub(crate) samples: Queue<SampleView>,
    pub(crate) bus: Queue<BusFrame>,
    samples_at: Instant,
}

/// One bounded queue.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: VecDeque<T>,
    /// What found it full.
    pub(crate) dropped: u64,
}

impl<T> Queue<T> {
    const fn new() -> Self {
        Self { items: VecDeque::new(), dropped: 0 }
    }

    /// Append, unless the queue is full.
    pub(crate) fn push(&mut self, item: T) {
        if self.items.len() >= MAX_REPORTS {
            self.dropped += 1;
        } else {
            self.items.push_back(item);
        }
    }

    /// The first items, as many as one frame takes.
    fn take(&mut self) -> Vec<T> {
        let count = self.items.len().min(PER_FRAME);
        self.items.drain(..count).collect()
    }
}

impl Upward {
    /// Nothing waits.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            records: Queue::new(),
            events: Queue::new(),
            samples: Queue::new(),
            bus: Queue::new(),
            samples_at: now,
        }
    }

    /// What found its queue full.
    pub(crate) const fn dropped(&self) -> u64 {
        self.records.dropped + self.events.dropped + self.samples.dropped + self.bus.dropped
    }

    /// Nobody listens: what would be stale later is not kept.
    pub(crate) fn without_daemon(&mut self) {
        self.samples.items.clear();
        self.bus.items.clear();
    }

    /// When samples may be sent again, if some wait.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        (!self.samples.items.is_empty()).then_some(self.samples_at)
    }

    /// Put frames into the connection, as long as it is not too full.
    pub(crate) fn pump(&mut self, now: Instant, connection: &mut Connection) -> Result<(), ConnectionError> {
        while connection.waiting() < ENOUGH_WAITING {
            if let Some(bus) = self.bus.items.pop_front() {
                connection.say(&Up::Bus(&bus))?;
            } else if !self.events.items.is_empty() {
                connection.say(&Up::Events { events: &self.events.take() })?;
            } else if !self.samples.items.is_empty() && self.samples_at <= now {
                connection.say(&Up::Samples { samples: &self.samples.take() })?;
                if self.samples.items.is_empty() {
                    self.samples_at = now + SAMPLES_EVERY;
                }
            } else if !self.records.items.is_empty() {
                connection.say(&Up::Records { records: &self.records.take() })?;
            } else {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn sample(sequence: u32) -> SampleView {
        let link = String::from("ams/a>iad/a");
        SampleView { link, sequence, sent_ns: 0, rtt_ns: None, received_ns: None, peer_received: None }
    }

    fn connection() -> (UnixStream, Connection) {
        let (daemon, engine) = UnixStream::pair().unwrap();
        engine.set_nonblocking(true).unwrap();
        (daemon, Connection::new(engine.into()))
    }

    #[test]
    fn a_full_queue_counts_what_it_refuses() {
        let mut upward = Upward::new(Instant::now());
        for sequence in 0..MAX_REPORTS as u32 + 3 {
            upward.samples.push(sample(sequence));
        }
        assert_eq!((upward.samples.items.len(), upward.dropped()), (MAX_REPORTS, 3));
        upward.without_daemon();
        assert!(upward.samples.items.is_empty());
    }

    #[test]
    fn samples_are_gathered_for_a_tenth_of_a_second() {
        let (_daemon, mut connection) = connection();
        let now = Instant::now();
        let mut upward = Upward::new(now);
        upward.samples.push(sample(1));
        assert_eq!(upward.poll_timeout(), Some(now));
        upward.pump(now, &mut connection).unwrap();
        assert_eq!(upward.poll_timeout(), None);
        upward.samples.push(sample(2));
        let (before, due) = (connection.waiting(), now + SAMPLES_EVERY);
        upward.pump(due - Duration::from_millis(1), &mut connection).unwrap();
        assert_eq!((connection.waiting(), upward.poll_timeout()), (before, Some(due)));
        upward.pump(due, &mut connection).unwrap();
        assert!(connection.waiting() > before);
    }

    #[test]
    fn a_daemon_that_reads_slowly_is_not_heaped_with_records() {
        let (_daemon, mut connection) = connection();
        let now = Instant::now();
        let mut upward = Upward::new(now);
        for sequence in 0..60_000 {
            upward.samples.push(sample(sequence));
        }
        upward.pump(now, &mut connection).unwrap();
        assert!((ENOUGH_WAITING..ENOUGH_WAITING + 200_000).contains(&connection.waiting()));
        assert!(!upward.samples.items.is_empty());
    }
}
