//! Which hop or probe keys are in force with which peer: the newest and the one before to receive with, one to send with
//! (`docs/protocol.md` section 3), and one whose connection the peer has not confirmed yet. It neither makes keys nor decides when they roll: the pair connection does.

use std::collections::BTreeMap;

use l4proxy_wire::DropReason;
use l4proxy_wire::hello::Hello;
use l4proxy_wire::ids::PopId;
use l4proxy_wire::keys::{Epoch, ProbeKey};
use l4proxy_wire::link_down::LinkDown;
use l4proxy_wire::probe::Probe;

/// Orders the receive keys of one table by the life of the peer's process that they belong to. A packet under a later one makes what was
/// remembered under earlier ones (sequences of a peer's former life) void; keys that follow each other under traffic share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyGeneration(pub u64);

/// A key to send with, and what stands in the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendKey<K> {
    /// Of this direction.
    pub key: K,
    /// Its number.
    pub epoch: Epoch,
}

#[derive(Clone, Debug)]
struct ReceiveKey<K> {
    key: K,
    epoch: Epoch,
    generation: KeyGeneration,
}

#[derive(Clone, Debug)]
struct PeerKeys<K> {
    /// Of a connection on which the peer has not said `HELLO`: it may fail yet, and costs none of the others their place.
    tentative: Option<ReceiveKey<K>>,
    newest: Option<ReceiveKey<K>>,
    previous: Option<ReceiveKey<K>>,
    send: Option<SendKey<K>>,
}

/// The keys with all peers; as large as the fleet.
#[derive(Clone, Debug)]
pub struct KeyTable<K> {
    peers: BTreeMap<PopId, PeerKeys<K>>,
    latest: KeyGeneration,
}

/// Why a tag could not be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFailure {
    /// There is no key of that epoch with that peer.
    NoKey,
    /// There is, and the tag is not made with it.
    WrongTag,
}

impl<K> Default for KeyTable<K> {
    fn default() -> Self {
        Self { peers: BTreeMap::new(), latest: KeyGeneration(0) }
    }
}

impl<K> KeyTable<K> {
    /// No keys with anybody.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on packets under `key` are accepted, whose connection is not known to follow another one: the peer's process may be a new one.
    /// A tentative key before it is forgotten.
    pub fn add_receive(&mut self, peer: PopId, key: K, epoch: Epoch) -> KeyGeneration {
        self.latest.0 += 1;
        let generation = self.latest;
        self.peer_mut(peer).tentative = Some(ReceiveKey { key, epoch, generation });
        generation
    }

    /// The same for a key whose connection follows the one of the newest key: what is remembered of the peer's packets stays in force.
    pub fn add_following(&mut self, peer: PopId, key: K, epoch: Epoch) -> KeyGeneration {
        let Some(generation) = self.peer_mut(peer).newest.as_ref().map(|newest| newest.generation) else {
            return self.add_receive(peer, key, epoch);
        };
        self.peer_mut(peer).tentative = Some(ReceiveKey { key, epoch, generation });
        generation
    }

    /// From now on packets to `peer`, which has confirmed the connection, are made with `key`. The tentative receive key becomes the newest, the
    /// newest the previous, and the previous is forgotten. `follows`: the peer, too, knows the connection that this one follows.
    pub fn set_send(&mut self, peer: PopId, key: K, epoch: Epoch, follows: bool) {
        self.latest.0 += u64::from(!follows);
        let latest = self.latest;
        let keys = self.peer_mut(peer);
        keys.send = Some(SendKey { key, epoch });
        if let Some(mut confirmed) = keys.tentative.take() {
            if !follows {
                confirmed.generation = latest;
            }
            keys.previous = keys.newest.replace(confirmed);
        }
    }

    /// Forgets all keys with a peer that left the fleet.
    pub fn remove(&mut self, peer: PopId) {
        self.peers.remove(&peer);
    }

    /// The key to send with.
    pub fn find_send(&self, peer: PopId) -> Option<&SendKey<K>> {
        self.peers.get(&peer)?.send.as_ref()
    }

    /// Finds the key of `peer` and `epoch` that `verify` accepts. Two keys may have the same epoch: it has four random bits.
    ///
    /// # Errors
    /// None has that epoch, or none of those that have is accepted.
    pub fn verify(
        &self,
        peer: PopId,
        epoch: Epoch,
        verify: impl Fn(&K) -> bool,
    ) -> Result<KeyGeneration, KeyFailure> {
        let keys = self.peers.get(&peer).ok_or(KeyFailure::NoKey)?;
        let mut failure = KeyFailure::NoKey;
        for key in [&keys.newest, &keys.previous, &keys.tentative]
            .into_iter()
            .flatten()
            .filter(|key| key.epoch == epoch)
        {
            if verify(&key.key) {
                return Ok(key.generation);
            }
            failure = KeyFailure::WrongTag;
        }
        Err(failure)
    }

    fn peer_mut(&mut self, peer: PopId) -> &mut PeerKeys<K> {
        self.peers.entry(peer).or_insert_with(|| PeerKeys {
            tentative: None,
            newest: None,
            previous: None,
            send: None,
        })
    }
}

/// Decodes a hello and checks its tag against the keys with the PoP that it names as its source.
///
/// # Errors
/// The reason to count, and drop the packet.
pub fn open_hello(packet: &[u8], keys: &KeyTable<ProbeKey>) -> Result<(Hello, KeyGeneration), DropReason> {
    let claimed = Hello::decode(packet)?;
    match keys.verify(claimed.hello.source, claimed.epoch, |key| claimed.verify(key)) {
        Ok(generation) => Ok((claimed.hello, generation)),
        Err(KeyFailure::NoKey) => Err(DropReason::HelloNoKey),
        Err(KeyFailure::WrongTag) => Err(DropReason::HelloTag),
    }
}

/// Decodes a probe and checks its tag against the keys with `peer`, the PoP at the address that it came from.
///
/// # Errors
/// The reason to count, and drop the packet.
pub fn open_probe(
    packet: &[u8],
    peer: PopId,
    keys: &KeyTable<ProbeKey>,
) -> Result<(Probe, KeyGeneration), DropReason> {
    let claimed = Probe::decode(packet)?;
    match keys.verify(peer, claimed.epoch, |key| claimed.verify(key)) {
        Ok(generation) => Ok((claimed.probe, generation)),
        Err(KeyFailure::NoKey) => Err(DropReason::ProbeNoKey),
        Err(KeyFailure::WrongTag) => Err(DropReason::ProbeTag),
    }
}

/// Decodes a LINK_DOWN and checks its tag against the keys with `peer`, the PoP at the address that it came from.
///
/// # Errors
/// The reason to count, and drop the packet.
pub fn open_link_down(
    packet: &[u8],
    peer: PopId,
    keys: &KeyTable<ProbeKey>,
) -> Result<(LinkDown, KeyGeneration), DropReason> {
    let claimed = LinkDown::decode(packet)?;
    match keys.verify(peer, claimed.epoch, |key| claimed.verify(key)) {
        Ok(generation) => Ok((claimed.link_down, generation)),
        Err(KeyFailure::NoKey) => Err(DropReason::LinkDownNoKey),
        Err(KeyFailure::WrongTag) => Err(DropReason::LinkDownTag),
    }
}

#[cfg(test)]
mod tests {
    use l4proxy_wire::hello::Reports;
    use l4proxy_wire::ids::{LinkId, PathId};
    use l4proxy_wire::probe::ProbeRequest;

    use super::*;

    const PEER: PopId = PopId(7);

    fn key(n: u8) -> ProbeKey {
        ProbeKey::new([n; 16])
    }

    fn hello(key: &ProbeKey, epoch: u8) -> Vec<u8> {
        let reports = Reports::EMPTY;
        let hello = Hello { source: PEER, path: PathId(1), sequence: 1, sent_us: 1, reports };
        hello.encode(key, Epoch::new(epoch)).as_slice().to_vec()
    }

    /// A key whose connection the peer has confirmed.
    fn confirm(keys: &mut KeyTable<ProbeKey>, n: u8, follows: bool) {
        keys.add_receive(PEER, key(n), Epoch::new(n));
        keys.set_send(PEER, key(n + 100), Epoch::new(n), follows);
    }

    fn opened(keys: &KeyTable<ProbeKey>, n: u8) -> Result<KeyGeneration, DropReason> {
        open_hello(&hello(&key(n), n), keys).map(|(_, generation)| generation)
    }

    #[test]
    fn the_newest_key_and_the_one_before_are_accepted_and_no_older_one() {
        let mut keys = KeyTable::new();
        assert_eq!(opened(&keys, 1), Err(DropReason::HelloNoKey));
        for n in 1..=3 {
            confirm(&mut keys, n, false);
        }
        assert_eq!(opened(&keys, 1), Err(DropReason::HelloNoKey));
        assert!(opened(&keys, 2).unwrap() < opened(&keys, 3).unwrap());
        assert_eq!(open_hello(&hello(&key(2), 3), &keys).err(), Some(DropReason::HelloTag));
        keys.remove(PEER);
        assert_eq!(open_hello(&hello(&key(3), 3), &keys).err(), Some(DropReason::HelloNoKey));
    }

    #[test]
    fn connections_that_fail_before_they_are_confirmed_cost_no_key_its_place() {
        let mut keys = KeyTable::new();
        confirm(&mut keys, 1, false);
        confirm(&mut keys, 2, true);
        for n in 3..9 {
            keys.add_following(PEER, key(n), Epoch::new(n));
            assert!(opened(&keys, 1).is_ok() && opened(&keys, 2).is_ok() && opened(&keys, n).is_ok(), "{n}");
            assert_eq!(opened(&keys, n - 1).is_ok(), n == 3, "{n}");
        }
    }

    #[test]
    fn keys_that_follow_each_other_belong_to_one_life_of_the_peer() {
        let mut keys = KeyTable::new();
        confirm(&mut keys, 1, false);
        let life = opened(&keys, 1);
        assert_eq!(keys.add_following(PEER, key(2), Epoch::new(2)), life.unwrap());
        keys.set_send(PEER, key(102), Epoch::new(2), true);
        assert_eq!((opened(&keys, 1), opened(&keys, 2)), (life, life));
        // The peer knows nothing of what was to be followed: it has started again.
        keys.add_following(PEER, key(3), Epoch::new(3));
        assert_eq!(opened(&keys, 3), life);
        keys.set_send(PEER, key(103), Epoch::new(3), false);
        assert!(opened(&keys, 3).unwrap() > life.unwrap());
        assert_eq!(opened(&keys, 2), life);
        // With nobody before it there is nothing to follow.
        assert!(keys.add_following(PopId(8), key(8), Epoch::new(8)) > life.unwrap());
    }

    #[test]
    fn two_keys_of_one_epoch_are_both_tried() {
        let mut keys = KeyTable::new();
        keys.add_receive(PEER, key(1), Epoch::new(4));
        keys.set_send(PEER, key(9), Epoch::new(4), true);
        keys.add_receive(PEER, key(2), Epoch::new(4));
        assert_eq!(open_hello(&hello(&key(1), 4), &keys).unwrap().1, KeyGeneration(1));
        assert_eq!(open_hello(&hello(&key(2), 4), &keys).unwrap().1, KeyGeneration(2));
    }

    #[test]
    fn a_probe_is_checked_with_the_keys_of_the_pop_it_came_from() {
        let mut keys = KeyTable::new();
        keys.add_receive(PEER, key(1), Epoch::new(1));
        let probe = Probe::Request(ProbeRequest { link: LinkId(1), sequence: 1, sent_ns: 1 });
        let packet = probe.encode(&key(1), Epoch::new(1));
        assert_eq!(open_probe(&packet, PEER, &keys), Ok((probe, KeyGeneration(1))));
        assert_eq!(open_probe(&packet, PopId(8), &keys), Err(DropReason::ProbeNoKey));
        keys.add_receive(PopId(8), key(8), Epoch::new(1));
        assert_eq!(open_probe(&packet, PopId(8), &keys), Err(DropReason::ProbeTag));
        assert_eq!(open_probe(&packet[1..], PEER, &keys), Err(DropReason::ProbeTruncated));
    }

    #[test]
    fn a_send_key_is_there_once_it_is_set() {
        let mut keys = KeyTable::new();
        keys.add_receive(PEER, key(1), Epoch::new(1));
        assert_eq!(keys.find_send(PEER), None);
        keys.set_send(PEER, key(2), Epoch::new(2), false);
        assert_eq!(keys.find_send(PEER), Some(&SendKey { key: key(2), epoch: Epoch::new(2) }));
    }
}
