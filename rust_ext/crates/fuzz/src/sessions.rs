//! The table of UDP sessions against a model that keeps everything in plain lists: same evictions, promotions, budgets and expiries, in
//! any order of events. An input is a row of steps of four bytes: `what and key · elapsed (2) · bytes`.

use std::time::{Duration, Instant};

use ahash::RandomState;
use l4proxy_proto::sessions::{Limits, Promotion, Room, Sessions};

use crate::at;

const MAX_ASSURED: usize = 3;
const MAX_NEW: usize = 6;
const IDLE_MS: u64 = 5_000;
const FACTOR: f64 = 3.0;
const DATAGRAM: u64 = 100;
const ASSURING_MS: u64 = 1_000;
const KEYS: u8 = 12;
const MAX_STEPS: usize = 512;

/// What the rules say of one session, in milliseconds.
#[derive(Debug, Clone)]
struct Entry {
    key: u64,
    is_assured: bool,
    answered: bool,
    confirmed: Option<u64>,
    last_used: u64,
    from_client: u64,
    unproved: u64,
}

/// All of them; the new ones in the order in which their clients last sent.
#[derive(Debug, Default)]
struct Model(Vec<Entry>);

impl Model {
    fn place(&self, key: u64) -> Option<usize> {
        self.0.iter().position(|entry| entry.key == key)
    }

    fn assured(&self) -> usize {
        self.0.iter().filter(|entry| entry.is_assured).count()
    }

    fn new_keys(&self) -> Vec<u64> {
        self.0.iter().filter(|entry| !entry.is_assured).map(|entry| entry.key).collect()
    }

    fn datagram(&mut self, now: u64, key: u64) -> (Option<u64>, Promotion) {
        let known = self.place(key);
        let mut evicted = None;
        let assured = self.assured();
        let mut entry = match known {
            Some(place) => self.0.remove(place),
            None => {
                if self.new_keys().len() >= MAX_NEW {
                    evicted = self.new_keys().first().copied();
                    self.0.retain(|entry| Some(entry.key) != evicted);
                }
                Entry {
                    key,
                    is_assured: false,
                    answered: false,
                    confirmed: None,
                    last_used: now,
                    from_client: 0,
                    unproved: 0,
                }
            }
        };
        entry.last_used = now;
        entry.from_client += DATAGRAM;
        let is_proved = entry.confirmed.is_some_and(|first| now - first >= ASSURING_MS);
        if entry.answered && entry.confirmed.is_none() {
            entry.confirmed = Some(now);
        }
        let promotion = match (entry.is_assured, is_proved) {
            (true, _) | (false, false) => Promotion::None,
            (false, true) if assured < MAX_ASSURED => Promotion::Assured,
            (false, true) => Promotion::Refused,
        };
        entry.is_assured |= promotion == Promotion::Assured;
        self.0.push(entry);
        (evicted, promotion)
    }

    fn answer(&mut self, now: u64, place: usize, bytes: u64) -> bool {
        let entry = &mut self.0[place];
        if entry.confirmed.is_none() {
            if entry.unproved + bytes > 3 * entry.from_client {
                return false;
            }
            entry.unproved += bytes;
        }
        entry.answered = true;
        entry.last_used = now;
        true
    }

    fn take_expired(&mut self, now: u64) -> Vec<u64> {
        let is_over = |entry: &Entry| entry.last_used + IDLE_MS <= now;
        let mut keys: Vec<_> = self.0.iter().filter(|entry| is_over(entry)).map(|entry| entry.key).collect();
        self.0.retain(|entry| !is_over(entry));
        keys.sort_unstable();
        keys
    }
}

/// The table itself, spoken to as an engine does.
struct Table(Sessions<u64>);

impl Table {
    fn new() -> Self {
        let limits = Limits { max_assured: MAX_ASSURED, max_new: MAX_NEW };
        Self(Sessions::new(limits, RandomState::with_seeds(1, 2, 3, 4)))
    }

    fn datagram(&mut self, now: Instant, key: u64) -> (Option<u64>, Promotion) {
        let mut evicted = None;
        let number = self.0.find(&key).unwrap_or_else(|| {
            if let Room::AfterEviction(number) = self.0.room() {
                evicted = self.0.remove(number).map(|session| session.key);
            }
            self.0.insert(now, key, Duration::from_millis(IDLE_MS))
        });
        (evicted, self.0.on_to_origin(now, number, DATAGRAM as usize))
    }

    fn answer(&mut self, now: Instant, key: u64, bytes: u64) -> bool {
        let number = self.0.find(&key).expect("the model has it");
        let is_admitted = self.0.admits_answer(number, bytes as usize, FACTOR);
        if is_admitted {
            self.0.on_to_client(now, number, bytes as usize);
        }
        is_admitted
    }

    fn take_expired(&mut self, now: Instant) -> Vec<u64> {
        let mut keys = Vec::new();
        while let Some(number) = self.0.poll_expired(now) {
            keys.extend(self.0.remove(number).map(|session| session.key));
        }
        keys.sort_unstable();
        keys
    }

    fn new_keys(&self) -> Vec<u64> {
        self.0.iter_new().filter_map(|number| Some(self.0.get(number)?.key)).collect()
    }
}

/// One story.
pub(crate) fn run(bytes: &[u8]) {
    let (mut table, mut model, mut now) = (Table::new(), Model::default(), 0);
    for step in bytes.as_chunks::<4>().0.iter().take(MAX_STEPS) {
        let [what, elapsed_high, elapsed_low, size] = *step;
        let (what, key) = (what / KEYS % 6, u64::from(what % KEYS));
        now += u64::from(u16::from_be_bytes([elapsed_high, elapsed_low]) % 900);
        let gone = model.take_expired(now);
        assert_eq!(table.take_expired(at(Duration::from_millis(now))), gone);
        match (what, model.place(key)) {
            (0..=2, _) => {
                let expected = model.datagram(now, key);
                assert_eq!(table.datagram(at(Duration::from_millis(now)), key), expected);
            }
            (3..=4, Some(place)) => {
                let expected = model.answer(now, place, size.into());
                assert_eq!(table.answer(at(Duration::from_millis(now)), key, size.into()), expected);
            }
            (_, Some(place)) => {
                model.0.remove(place);
                let number = table.0.find(&key).expect("the model has it");
                table.0.remove(number);
            }
            (_, None) => assert!(table.0.find(&key).is_none()),
        }
        assert_eq!((table.0.len(), table.0.assured()), (model.0.len(), model.assured()));
        assert_eq!(table.new_keys(), model.new_keys());
    }
}
