//! Which hop or probe keys are in force with which peer: the newest and the one before to receive with, one to send with
//! (`docs/protocol.md` section 3). It neither makes keys nor decides when they roll: the pair connection does.

use std::collections::BTreeMap;

use l4proxy_wire::DropReason;
use l4proxy_wire::hello::Hello;
use l4proxy_wire::ids::PopId;
use l4proxy_wire::keys::{Epoch, ProbeKey};
use l4proxy_wire::link_down::LinkDown;
use l4proxy_wire::probe::Probe;

/// Orders the receive keys of one table by when they were installed. A packet under a later one makes what was
/// remembered under earlier ones (sequences of a peer's former life) void.
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

    /// From now on packets under `key` are accepted; the newest so far becomes the previous, the previous is forgotten.
    pub fn add_receive(&mut self, peer: PopId, key: K, epoch: Epoch) -> KeyGeneration {
        self.latest.0 += 1;
        let generation = self.latest;
        let keys = self.peer_mut(peer);
        keys.previous = keys.newest.replace(ReceiveKey { key, epoch, generation });
        generation
    }

    /// From now on packets to `peer` are made with `key`.
    pub fn set_send(&mut self, peer: PopId, key: K, epoch: Epoch) {
        self.peer_mut(peer).send = Some(SendKey { key, epoch });
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
        for key in [&keys.newest, &keys.previous].into_iter().flatten().filter(|key| key.epoch == epoch) {
            if verify(&key.key) {
                return Ok(key.generation);
            }
            failure = KeyFailure::WrongTag;
        }
        Err(failure)
    }

    fn peer_mut(&mut self, peer: PopId) -> &mut PeerKeys<K> {
        self.peers.entry(peer).or_insert_with(|| PeerKeys { newest: None, previous: None, send: None })
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

    #[test]
    fn the_newest_key_and_the_one_before_are_accepted_and_no_older_one() {
        let mut keys = KeyTable::new();
        assert_eq!(open_hello(&hello(&key(1), 1), &keys).err(), Some(DropReason::HelloNoKey));
        for n in 1..=3 {
            assert_eq!(keys.add_receive(PEER, key(n), Epoch::new(n)), KeyGeneration(n.into()));
        }
        assert_eq!(open_hello(&hello(&key(1), 1), &keys).err(), Some(DropReason::HelloNoKey));
        assert_eq!(open_hello(&hello(&key(2), 2), &keys).unwrap().1, KeyGeneration(2));
        assert_eq!(open_hello(&hello(&key(3), 3), &keys).unwrap().1, KeyGeneration(3));
        assert_eq!(open_hello(&hello(&key(2), 3), &keys).err(), Some(DropReason::HelloTag));
        keys.remove(PEER);
        assert_eq!(open_hello(&hello(&key(3), 3), &keys).err(), Some(DropReason::HelloNoKey));
    }

    #[test]
    fn two_keys_of_one_epoch_are_both_tried() {
        let mut keys = KeyTable::new();
        keys.add_receive(PEER, key(1), Epoch::new(4));
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
        keys.set_send(PEER, key(2), Epoch::new(2));
        assert_eq!(keys.find_send(PEER), Some(&SendKey { key: key(2), epoch: Epoch::new(2) }));
    }
}
