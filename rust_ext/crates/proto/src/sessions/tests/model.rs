//! The table against a model that keeps everything in plain lists: same evictions, promotions, budgets and expiries, in any order of
//! events.

use super::*;

const MAX_ASSURED: usize = 3;
const MAX_NEW: usize = 6;
const IDLE_MS: u64 = 5_000;
const FACTOR: f64 = 3.0;

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
        let mut evicted = None;
        if self.place(key).is_none() {
            if self.new_keys().len() >= MAX_NEW {
                evicted = self.new_keys().first().copied();
                self.0.retain(|entry| Some(entry.key) != evicted);
            }
            let (answered, confirmed) = (false, None);
            self.0.push(Entry {
                key,
                is_assured: false,
                answered,
                confirmed,
                last_used: now,
                from_client: 0,
                unproved: 0,
            });
        }
        let assured = self.assured();
        let mut entry = self.0.remove(self.place(key).unwrap());
        entry.last_used = now;
        entry.from_client += 100;
        let is_proved = entry.confirmed.is_some_and(|first| now - first >= 1_000);
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

    fn expired(&self, now: u64) -> Vec<u64> {
        let mut keys: Vec<_> =
            self.0.iter().filter(|entry| entry.last_used + IDLE_MS <= now).map(|entry| entry.key).collect();
        keys.sort_unstable();
        keys
    }
}

/// The same datagram for the table.
fn table_datagram(sessions: &mut Sessions<u64>, now: Instant, key: u64) -> (Option<u64>, Promotion) {
    let mut evicted = None;
    let number = sessions.find(&key).unwrap_or_else(|| {
        if let Room::AfterEviction(number) = sessions.room() {
            evicted = sessions.remove(number).map(|session| session.key);
        }
        sessions.insert(now, key, Duration::from_millis(IDLE_MS))
    });
    (evicted, sessions.on_to_origin(now, number, 100))
}

fn table_answer(sessions: &mut Sessions<u64>, now: Instant, key: u64, bytes: u64) -> bool {
    let number = sessions.find(&key).unwrap();
    let is_admitted = sessions.admits_answer(number, bytes as usize, FACTOR);
    if is_admitted {
        sessions.on_to_client(now, number, bytes as usize);
    }
    is_admitted
}

fn table_expired(sessions: &mut Sessions<u64>, now: Instant) -> Vec<u64> {
    let mut keys = Vec::new();
    while let Some(number) = sessions.poll_expired(now) {
        keys.extend(sessions.remove(number).map(|session| session.key));
    }
    keys.sort_unstable();
    keys
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_table_does_what_the_model_does(
        steps in proptest::collection::vec((0..6u8, 0..12u64, 0..900u64, 0..250u64), 1..250),
    ) {
        let (mut sessions, mut model, mut now) = (table(MAX_ASSURED, MAX_NEW), Model::default(), 0);
        for (kind, key, elapsed, bytes) in steps {
            now += elapsed;
            let gone = model.expired(now);
            model.0.retain(|entry| !gone.contains(&entry.key));
            prop_assert_eq!(table_expired(&mut sessions, at(now)), gone);
            match (kind, model.place(key)) {
                (0..=2, _) => {
                    let expected = model.datagram(now, key);
                    prop_assert_eq!(table_datagram(&mut sessions, at(now), key), expected);
                }
                (3..=4, Some(place)) => {
                    let expected = model.answer(now, place, bytes);
                    prop_assert_eq!(table_answer(&mut sessions, at(now), key, bytes), expected);
                }
                (_, Some(place)) => {
                    model.0.remove(place);
                    sessions.remove(sessions.find(&key).unwrap());
                }
                (_, None) => prop_assert!(sessions.find(&key).is_none()),
            }
            prop_assert_eq!((sessions.len(), sessions.assured()), (model.0.len(), model.assured()));
            let listed: Vec<_> =
                sessions.iter_new().map(|number| sessions.get(number).unwrap().key).collect();
            prop_assert_eq!(listed, model.new_keys());
        }
    }
}
