//! The table in virtual time: what a flood can and cannot do, and when sessions end. Against a model it is tested in `crates/fuzz`.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const IDLE: Duration = Duration::from_secs(120);

fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant can only be made from a clock; its value is never looked at"
    )]
    *EPOCH.get_or_init(Instant::now)
}

fn at(milliseconds: u64) -> Instant {
    epoch() + Duration::from_millis(milliseconds)
}

fn table(max_assured: usize, max_new: usize) -> Sessions<u64> {
    Sessions::new(Limits { max_assured, max_new }, RandomState::with_seeds(1, 2, 3, 4))
}

/// What an engine does with a datagram of a client: find or make its session, evicting who must go.
fn datagram(sessions: &mut Sessions<u64>, now: Instant, key: u64) -> (Option<u64>, Promotion) {
    if let Some(number) = sessions.find(&key) {
        return (None, sessions.on_to_origin(now, number, 100));
    }
    let evicted = match sessions.room() {
        Room::Free => None,
        Room::AfterEviction(number) => sessions.remove(number).map(|session| session.key),
        Room::Full => return (None, Promotion::None),
    };
    let number = sessions.insert(now, key, IDLE);
    (evicted, sessions.on_to_origin(now, number, 100))
}

fn answer(sessions: &mut Sessions<u64>, now: Instant, key: u64) {
    let number = sessions.find(&key).unwrap();
    sessions.on_to_client(now, number, 50);
}

/// A client that plays: question and answer, four times within 1.5 s.
fn assure(sessions: &mut Sessions<u64>, from_ms: u64, key: u64) {
    for turn in 0..4 {
        datagram(sessions, at(from_ms + 500 * turn), key);
        answer(sessions, at(from_ms + 500 * turn + 20), key);
    }
    assert_eq!(sessions.get(sessions.find(&key).unwrap()).unwrap().class, Class::Assured);
}

#[test]
fn a_client_is_assured_when_it_sent_twice_after_an_answer_a_second_apart() {
    let mut sessions = table(10, 10);
    assert_eq!(datagram(&mut sessions, at(0), 1).1, Promotion::None);
    answer(&mut sessions, at(20), 1);
    assert_eq!(datagram(&mut sessions, at(40), 1).1, Promotion::None);
    assert_eq!(datagram(&mut sessions, at(1_039), 1).1, Promotion::None);
    assert_eq!(datagram(&mut sessions, at(1_040), 1).1, Promotion::Assured);
    assert_eq!(datagram(&mut sessions, at(1_041), 1).1, Promotion::None);
    assert_eq!((sessions.len(), sessions.assured()), (1, 1));
}

#[test]
fn sending_for_ever_without_an_answer_assures_nobody() {
    let mut sessions = table(10, 10);
    for second in 0..100 {
        assert_eq!(datagram(&mut sessions, at(1_000 * second), 1).1, Promotion::None);
    }
    assert_eq!(sessions.assured(), 0);
}

#[test]
fn an_origin_that_answers_a_flood_promotes_none_of_it() {
    let mut sessions = table(1_000, 100);
    for source in 0..5_000 {
        datagram(&mut sessions, at(source / 10), source);
        answer(&mut sessions, at(source / 10 + 1), source);
    }
    assert_eq!((sessions.len(), sessions.assured()), (100, 0));
}

#[test]
fn a_flood_evicts_new_sessions_only_and_the_table_never_grows_over_its_caps() {
    let mut sessions = table(4, 16);
    for client in 1..=4 {
        assure(&mut sessions, 0, client);
    }
    for source in 1_000..20_000 {
        let (evicted, _) = datagram(&mut sessions, at(3_000), source);
        assert!(evicted.is_none_or(|key| key >= 1_000));
        assert!(sessions.len() <= 20);
    }
    assert_eq!((sessions.len(), sessions.assured()), (20, 4));
    assert!((1..=4).all(|client| sessions.find(&client).is_some()));
}

#[test]
fn under_a_flood_a_newcomer_who_keeps_sending_stays() {
    // 100 new sessions at most, 1,000 forged sources a second, and a client that sends every 50 ms.
    let mut sessions = table(10, 100);
    for millisecond in 0..2_000 {
        datagram(&mut sessions, at(millisecond), 1_000_000 + millisecond);
        if millisecond % 50 == 0 {
            datagram(&mut sessions, at(millisecond), 7);
            answer(&mut sessions, at(millisecond), 7);
        }
    }
    assert_eq!(sessions.get(sessions.find(&7).unwrap()).unwrap().class, Class::Assured);
    assert_eq!(sessions.get(sessions.find(&7).unwrap()).unwrap().to_origin.datagrams, 40);
}

#[test]
fn when_the_assured_ones_are_at_their_cap_the_next_stays_new_until_one_leaves() {
    let mut sessions = table(1, 10);
    assure(&mut sessions, 0, 1);
    datagram(&mut sessions, at(2_000), 2);
    answer(&mut sessions, at(2_001), 2);
    datagram(&mut sessions, at(2_002), 2);
    assert_eq!(datagram(&mut sessions, at(4_000), 2).1, Promotion::Refused);
    assert_eq!((sessions.len(), sessions.assured()), (2, 1));
    sessions.remove(sessions.find(&1).unwrap());
    assert_eq!(datagram(&mut sessions, at(4_001), 2).1, Promotion::Assured);
}

#[test]
fn a_table_without_room_for_new_ones_takes_nobody() {
    let mut sessions = table(10, 0);
    assert_eq!(sessions.room(), Room::Full);
    assert_eq!(datagram(&mut sessions, at(0), 1).1, Promotion::None);
    assert!(sessions.is_empty());
}

#[test]
fn a_session_ends_when_nothing_passed_for_its_idle_time() {
    let mut sessions = table(10, 10);
    datagram(&mut sessions, at(0), 1);
    datagram(&mut sessions, at(0), 2);
    answer(&mut sessions, at(60_000), 2);
    assert_eq!(sessions.poll_expired(at(119_999)), None);
    let expired = sessions.poll_expired(at(120_000)).unwrap();
    assert_eq!(sessions.remove(expired).unwrap().key, 1);
    assert_eq!(sessions.poll_expired(at(120_000)), None);
    assert_eq!(sessions.poll_timeout(), Some(at(180_000)));
    let expired = sessions.poll_expired(at(180_000)).unwrap();
    let session = sessions.remove(expired).unwrap();
    assert_eq!((session.to_origin.datagrams, session.to_client.bytes), (1, 50));
    assert_eq!((sessions.poll_timeout(), sessions.is_empty()), (None, true));
}

#[test]
fn a_number_that_is_used_again_is_another_session() {
    let mut sessions = table(10, 10);
    datagram(&mut sessions, at(0), 1);
    let number = sessions.find(&1).unwrap();
    let generation = sessions.get(number).unwrap().generation;
    sessions.remove(number);
    datagram(&mut sessions, at(0), 2);
    assert_eq!(sessions.find(&2), Some(number));
    assert!(sessions.get_generation(number, generation).is_none());
}

#[test]
fn answers_to_a_client_that_has_proved_nothing_are_few_times_what_it_sent() {
    let mut sessions = table(10, 10);
    datagram(&mut sessions, at(0), 1);
    let number = sessions.find(&1).unwrap();
    let admitted: Vec<_> = [301, 300, 1, 0].map(|bytes| sessions.admits_answer(number, bytes, 3.0)).into();
    assert_eq!(admitted, [false, true, false, true]);
    // More from the client before any answer has left is more to count from, and no proof.
    datagram(&mut sessions, at(1), 1);
    assert!(sessions.admits_answer(number, 300, 3.0));
    assert!(!sessions.admits_answer(number, 1, 3.0));
    answer(&mut sessions, at(2), 1);
    assert!(!sessions.admits_answer(number, 1, 3.0));
    datagram(&mut sessions, at(3), 1);
    assert!(sessions.admits_answer(number, 1_000_000, 3.0));
    assert!(!sessions.admits_answer(number + 1, 0, 3.0), "nobody's session");
}

#[test]
fn a_fraction_is_a_factor_as_well() {
    let mut sessions = table(10, 10);
    datagram(&mut sessions, at(0), 1);
    let number = sessions.find(&1).unwrap();
    assert!(!sessions.admits_answer(number, 51, 0.5));
    assert!(sessions.admits_answer(number, 50, 0.5));
}

proptest! {
    /// Whatever happens in whatever order: caps hold, keys find their sessions, the list of new ones is exactly the new ones.
    #[test]
    fn the_table_is_always_consistent(steps in proptest::collection::vec((0..5u8, 0..30u64, 0..400u64), 1..300)) {
        let mut sessions = table(5, 12);
        let mut model: BTreeMap<u64, ()> = BTreeMap::new();
        let mut now = 0;
        for (kind, key, elapsed) in steps {
            now += elapsed;
            match kind {
                0..=2 => {
                    let (evicted, _) = datagram(&mut sessions, at(now), key);
                    if let Some(evicted) = evicted {
                        model.remove(&evicted).expect("only what is there is evicted");
                    }
                    model.insert(key, ());
                }
                3 => if sessions.find(&key).is_some() {
                    answer(&mut sessions, at(now), key);
                },
                _ => {
                    let removed = sessions.find(&key).and_then(|number| sessions.remove(number));
                    prop_assert_eq!(removed.is_some(), model.remove(&key).is_some());
                }
            }
            prop_assert!(sessions.assured() <= 5);
            prop_assert!(sessions.len() - sessions.assured() <= 12);
            prop_assert_eq!(sessions.len(), model.len());
            prop_assert!((0..30).all(|key| sessions.find(&key).is_some() == model.contains_key(&key)));
            let listed: Vec<_> = sessions.iter_new().collect();
            prop_assert_eq!(listed.len(), sessions.len() - sessions.assured());
            prop_assert!(listed.iter().all(|&number| sessions.get(number).unwrap().class == Class::New));
        }
    }
}
