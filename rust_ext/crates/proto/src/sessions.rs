//! The table of UDP sessions of one worker: who may have one, who must make room, and when one has been idle for too long.
//!
//! Two classes share the table, each with a hard cap. A session begins as [`Class::New`]: anybody can make one with a single
//! datagram of a forged source. It becomes [`Class::Assured`] when its client has sent again after an answer had left towards it,
//! twice, a second apart: whoever forges sources does not hear answers, and an origin that answers strangers must not promote a
//! flood of them. When the new ones are at their cap, the one whose client has been silent for longest makes room; an assured
//! session is never evicted. [`sources`] bounds what one source may have.
//!
//! A [`Session`] is one plain struct: what is counted, how long it may be idle, which class it has. Sockets and translation stay
//! with whoever carries datagrams, in a table with the same numbers.

pub mod sources;

#[cfg(test)]
mod tests;

use std::hash::Hash;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use crate::timers::Deadlines;

/// Between the two datagrams that assure a session. Long enough that one burst does not do, short enough for a call or a game.
const ASSURING_INTERVAL: Duration = Duration::from_secs(1);

/// No session.
const NONE: u32 = u32::MAX;

/// Hard caps of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions whose client has proved to hear our answers.
    pub max_assured: usize,
    /// All others.
    pub max_new: usize,
}

/// What a session's client has proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Nothing: it may be one of a flood.
    New,
    /// It hears our answers.
    Assured,
}

/// What went one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, bytes: usize) {
        self.datagrams += 1;
        self.bytes += bytes as u64;
    }
}

/// One session: everything that either executor, this process or the kernel, needs to keep or tell.
#[derive(Debug, Clone)]
pub struct Session<K> {
    /// What finds it.
    pub key: K,
    /// Tells it from an earlier session of the same number.
    pub generation: u32,
    /// What its client has proved.
    pub class: Class,
    /// When it began.
    pub opened: Instant,
    /// When the last datagram passed, either way.
    pub last_used: Instant,
    /// How long it may be idle.
    pub idle: Duration,
    /// From the client.
    pub to_origin: Traffic,
    /// From the origin.
    pub to_client: Traffic,
    /// Datagrams of this session that did not pass, either way.
    pub dropped: u64,
    /// Bytes of answers that were let through before the client had proved anything.
    unproved: u64,
    /// When the first answer had left towards the client.
    pub answered: Option<Instant>,
    /// When the client sent for the first time after that.
    confirmed: Option<Instant>,
    /// Neighbours in the list of new sessions, by when their clients last sent.
    older: u32,
    newer: u32,
}

/// Whether another session may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Free,
    /// Yes, after this one was removed.
    AfterEviction(u32),
    /// No: the cap of new sessions is zero.
    Full,
}

/// What a datagram of the client did to its session's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promotion {
    /// Nothing.
    None,
    /// It is assured from here on.
    Assured,
    /// It would be, but there are as many assured sessions as may be. It stays new and asks again with each datagram.
    Refused,
}

/// Sessions of one worker by key; numbers are dense, small, and used again.
#[derive(Debug)]
pub struct Sessions<K> {
    limits: Limits,
    hasher: RandomState,
    index: HashTable<u32>,
    slab: Slab<Session<K>>,
    deadlines: Deadlines,
    assured: usize,
    /// The new session whose client has been silent for longest, and the one whose client sent last.
    oldest: u32,
    newest: u32,
    next_generation: u32,
}

impl<K: Eq + Hash + Copy> Sessions<K> {
    /// An empty table. The hasher must be keyed with something that clients cannot know.
    #[must_use]
    pub fn new(limits: Limits, hasher: RandomState) -> Self {
        Self {
            limits,
            hasher,
            index: HashTable::new(),
            slab: Slab::new(),
            deadlines: Deadlines::new(),
            assured: 0,
            oldest: NONE,
            newest: NONE,
            next_generation: 0,
        }
    }

    /// Change the caps. Sessions that are over a lower cap stay until they end.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// How many are assured.
    #[must_use]
    pub fn assured(&self) -> usize {
        self.assured
    }

    /// The session of a key.
    #[must_use]
    pub fn find(&self, key: &K) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |&number| self.slab[number as usize].key == *key).copied()
    }

    /// A session by number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Session<K>> {
        self.slab.get(number as usize)
    }

    /// A session by number, unless the number belongs to a later one by now.
    #[must_use]
    pub fn get_generation(&self, number: u32, generation: u32) -> Option<&Session<K>> {
        self.get(number).filter(|session| session.generation == generation)
    }

    /// Every session with its number, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Session<K>)> {
        self.slab.iter().map(|(number, session)| (number as u32, session))
    }

    /// New sessions, the one whose client has been silent for longest first.
    pub fn iter_new(&self) -> impl Iterator<Item = u32> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let session = self.slab.get(next as usize)?;
            Some(std::mem::replace(&mut next, session.newer))
        })
    }

    /// Whether another session may begin, and who has to go for it.
    #[must_use]
    pub fn room(&self) -> Room {
        if self.slab.len() - self.assured < self.limits.max_new {
            Room::Free
        } else if self.oldest != NONE {
            Room::AfterEviction(self.oldest)
        } else {
            Room::Full
        }
    }

    /// Begin a session; its number.
    ///
    /// # Panics
    /// When [`Sessions::room`] does not say [`Room::Free`], or the key has a session: both would break a cap or lose a session.
    pub fn insert(&mut self, now: Instant, key: K, idle: Duration) -> u32 {
        assert!(self.room() == Room::Free, "the caller made room");
        assert!(self.find(&key).is_none(), "one session per key");
        self.next_generation = self.next_generation.wrapping_add(1);
        let number = self.slab.insert(Session {
            key,
            generation: self.next_generation,
            class: Class::New,
            opened: now,
            last_used: now,
            idle,
            to_origin: Traffic::default(),
            to_client: Traffic::default(),
            dropped: 0,
            unproved: 0,
            answered: None,
            confirmed: None,
            older: NONE,
            newer: NONE,
        }) as u32;
        let (slab, hasher) = (&self.slab, &self.hasher);
        let rehash = |&number: &u32| hasher.hash_one(slab[number as usize].key);
        self.index.insert_unique(hasher.hash_one(key), number, rehash);
        self.deadlines.set(number, now + idle);
        self.append(number);
        number
    }

    /// End a session.
    pub fn remove(&mut self, number: u32) -> Option<Session<K>> {
        let class = self.get(number)?.class;
        match class {
            Class::New => self.unlink(number),
            Class::Assured => self.assured -= 1,
        }
        let session = self.slab.remove(number as usize);
        if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(session.key), |&other| other == number)
        {
            entry.remove();
        }
        self.deadlines.remove(number);
        Some(session)
    }

    /// A datagram of the client was passed on.
    pub fn on_to_origin(&mut self, now: Instant, number: u32, bytes: usize) -> Promotion {
        let Some(session) = self.slab.get_mut(number as usize) else { return Promotion::None };
        session.last_used = now;
        session.to_origin.add(bytes);
        if session.class == Class::Assured {
            return Promotion::None;
        }
        let is_proved = match (session.answered, session.confirmed) {
            (None, _) => false,
            (Some(_), None) => {
                session.confirmed = Some(now);
                false
            }
            (Some(_), Some(first)) => now.saturating_duration_since(first) >= ASSURING_INTERVAL,
        };
        self.unlink(number);
        if is_proved && self.assured < self.limits.max_assured {
            self.slab[number as usize].class = Class::Assured;
            self.assured += 1;
            return Promotion::Assured;
        }
        self.append(number);
        if is_proved { Promotion::Refused } else { Promotion::None }
    }

    /// Whether an answer may leave: until the client has sent again after the first one, all answers together have at most
    /// `factor` times the bytes that it sent. Whoever forges a source cannot make more of his bytes than that.
    pub fn admits_answer(&mut self, number: u32, bytes: usize, factor: f64) -> bool {
        let Some(session) = self.slab.get_mut(number as usize) else { return false };
        if session.confirmed.is_some() {
            return true;
        }
        let total = session.unproved + bytes as u64;
        // Exact up to 2^53 bytes, which no client sends before it has an answer.
        let is_admitted = total as f64 <= factor * session.to_origin.bytes as f64;
        if is_admitted {
            session.unproved = total;
        }
        is_admitted
    }

    /// An answer left towards the client.
    pub fn on_to_client(&mut self, now: Instant, number: u32, bytes: usize) {
        if let Some(session) = self.slab.get_mut(number as usize) {
            session.last_used = now;
            session.to_client.add(bytes);
            session.answered.get_or_insert(now);
        }
    }

    /// A datagram did not pass.
    pub fn on_dropped(&mut self, number: u32) {
        if let Some(session) = self.slab.get_mut(number as usize) {
            session.dropped += 1;
        }
    }

    /// When [`Sessions::poll_expired`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// The next session that has been idle for too long; remove it before asking again.
    pub fn poll_expired(&mut self, now: Instant) -> Option<u32> {
        while let Some(number) = self.deadlines.pop_due(now) {
            let session = &self.slab[number as usize];
            let expires = session.last_used + session.idle;
            if expires <= now {
                return Some(number);
            }
            self.deadlines.set(number, expires);
        }
        None
    }

    /// Take a session out of the list of new ones.
    fn unlink(&mut self, number: u32) {
        let (older, newer) = {
            let session = &self.slab[number as usize];
            (session.older, session.newer)
        };
        match self.slab.get_mut(older as usize) {
            Some(session) => session.newer = newer,
            None => self.oldest = newer,
        }
        match self.slab.get_mut(newer as usize) {
            Some(session) => session.older = older,
            None => self.newest = older,
        }
    }

    /// Put a session at the end of the list of new ones.
    fn append(&mut self, number: u32) {
        let before = std::mem::replace(&mut self.newest, number);
        let session = &mut self.slab[number as usize];
        (session.older, session.newer) = (before, NONE);
        match self.slab.get_mut(before as usize) {
            Some(session) => session.newer = number,
            None => self.oldest = number,
        }
    }
}
