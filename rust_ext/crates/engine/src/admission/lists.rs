//! Contents of access lists as they come from the daemon, piece by piece, and the tables made of them. On the control thread only.
//!
//! A list is known by a number that stands for its contents, so it never changes: another version has another number. What the snapshot
//! in force does not name is forgotten. Tables are made when a snapshot first needs them and kept as long as one does.

use std::sync::Arc;

use hashbrown::HashMap;
use l4proxy_proto::access::packed::{self, V4_BYTES, V6_BYTES};
use l4proxy_proto::access::{AccessTable, Lists, Prefix};

use crate::messages::AccessListFrame;
use crate::policy::Access;

/// Prefixes of one list.
const MAX_PREFIXES: usize = 2_000_000;

/// Prefixes of all lists that are held: some 130 MB.
const MAX_HELD: usize = 8_000_000;

/// Lists that are held.
const MAX_LISTS: usize = 4_096;

/// What has come of one list.
#[derive(Debug, Default)]
struct Contents {
    /// As on the wire.
    v4: Vec<u8>,
    v6: Vec<u8>,
    /// Pieces that came.
    parts: u32,
    is_whole: bool,
}

impl Contents {
    fn prefixes(&self) -> usize {
        self.v4.len() / V4_BYTES + self.v6.len() / V6_BYTES
    }

    /// Every prefix; None in place of one that is longer than its address.
    fn iter(&self) -> impl Iterator<Item = Option<Prefix>> + '_ {
        packed::unpack(&self.v4, &self.v6)
    }
}

/// Why a piece of a list was not taken; a snapshot that names the list is refused with it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum ListError {
    /// Nobody sent it, or not all of it.
    #[error("access list {0:x} has not come whole")]
    Missing(u64),
    /// A piece came that does not follow the one before.
    #[error("access list {0:x}: piece {1} came out of turn")]
    OutOfTurn(u64, u32),
    /// Its bytes are no prefixes.
    #[error("access list {0:x}: what came is no list of prefixes")]
    Malformed(u64),
    /// Too many prefixes.
    #[error("access list {0:x}: more than {MAX_PREFIXES} prefixes, or more than {MAX_HELD} in all lists")]
    TooLarge(u64),
}

/// Every list that the daemon has sent and a snapshot names or may name next.
#[derive(Debug, Default)]
pub(crate) struct AccessLists {
    lists: HashMap<u64, Result<Contents, ListError>>,
    tables: Vec<(Access, Arc<AccessTable>)>,
}

impl AccessLists {
    /// Nothing has come.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Take a piece. What is wrong with it is said when a snapshot names the list.
    pub(crate) fn take(&mut self, frame: AccessListFrame) {
        let AccessListFrame { id, part, is_last, v4, v6 } = frame;
        let is_known = self.lists.contains_key(&id);
        if !is_known && self.lists.len() >= MAX_LISTS {
            return;
        }
        let held: usize = self.lists.values().flatten().map(Contents::prefixes).sum();
        let list = self.lists.entry(id).or_insert_with(|| Ok(Contents::default()));
        if part == 0 {
            // From the beginning: a daemon that was interrupted sends it anew.
            if list.as_ref().is_ok_and(|contents| contents.is_whole) {
                return;
            }
            *list = Ok(Contents::default());
        }
        let Ok(contents) = list else { return };
        let more = v4.len() / V4_BYTES + v6.len() / V6_BYTES;
        if contents.is_whole {
            // The rest of a list that is here already.
        } else if part != contents.parts {
            *list = Err(ListError::OutOfTurn(id, part));
        } else if v4.len() % V4_BYTES != 0 || v6.len() % V6_BYTES != 0 {
            *list = Err(ListError::Malformed(id));
        } else if contents.prefixes() + more > MAX_PREFIXES || held + more > MAX_HELD {
            *list = Err(ListError::TooLarge(id));
        } else {
            contents.v4.extend_from_slice(&v4);
            contents.v6.extend_from_slice(&v6);
            contents.parts += 1;
            contents.is_whole = is_last;
            if is_last && contents.iter().any(|prefix| prefix.is_none()) {
                *list = Err(ListError::Malformed(id));
            }
        }
    }

    /// The table of an app's access; None: everybody may come.
    pub(crate) fn table(&mut self, access: &Access) -> Result<Option<Arc<AccessTable>>, String> {
        if access.default_allow && access.lists.is_empty() {
            return Ok(None);
        }
        if let Some((_, table)) = self.tables.iter().find(|(known, _)| known == access) {
            return Ok(Some(table.clone()));
        }
        let mut lists = Lists::default();
        for list in &access.lists {
            let missing = ListError::Missing(list.id);
            let contents = match self.lists.get(&list.id) {
                Some(Ok(contents)) if contents.is_whole => contents,
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(_)) | None => return Err(missing.to_string()),
            };
            contents.iter().flatten().for_each(|prefix| lists.add(prefix, list.allow));
        }
        let table = Arc::new(lists.build(access.default_allow));
        self.tables.push((access.clone(), table.clone()));
        Ok(Some(table))
    }

    /// A snapshot is in force in which apps have these: forget everything else.
    pub(crate) fn keep<'a>(&mut self, named: impl Iterator<Item = &'a Access> + Clone) {
        self.tables.retain(|(known, _)| named.clone().any(|access| access == known));
        self.lists.retain(|id, _| named.clone().any(|access| access.lists.iter().any(|list| list.id == *id)));
    }

    /// Numbers of the lists that are here whole, in order.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let whole = self.lists.iter().filter(|(_, list)| list.as_ref().is_ok_and(|list| list.is_whole));
        let mut ids: Vec<_> = whole.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::AccessList;

    fn frame(id: u64, part: u32, is_last: bool, v4: &[[u8; 5]]) -> AccessListFrame {
        AccessListFrame { id, part, is_last, v4: v4.concat(), v6: Vec::new() }
    }

    fn deny(ids: &[u64]) -> Access {
        let list = |&id: &u64| AccessList { allow: false, id };
        Access { default_allow: true, lists: ids.iter().map(list).collect() }
    }

    #[test]
    fn a_list_comes_in_pieces_and_counts_when_it_is_whole() {
        let mut lists = AccessLists::new();
        lists.take(frame(7, 0, false, &[[192, 0, 2, 0, 24]]));
        let error = lists.table(&deny(&[7])).unwrap_err();
        assert_eq!(error, ListError::Missing(7).to_string());
        assert_eq!(lists.ids(), []);
        lists.take(frame(7, 1, true, &[[198, 51, 100, 7, 32]]));
        assert_eq!(lists.ids(), [7]);
        let table = lists.table(&deny(&[7])).unwrap().unwrap();
        for (client, is_allowed) in [("192.0.2.9", false), ("198.51.100.7", false), ("198.51.100.8", true)] {
            assert_eq!(table.allows(client.parse().unwrap()), is_allowed, "{client}");
        }
        let again = lists.table(&deny(&[7])).unwrap().unwrap();
        assert!(Arc::ptr_eq(&table, &again), "apps that say the same share one table");
        assert!(lists.table(&deny(&[])).unwrap().is_none());
    }

    #[test]
    fn ipv6_prefixes_are_packed_alike() {
        let mut v6 = "2001:db8::".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
        v6.push(32);
        let mut lists = AccessLists::new();
        lists.take(AccessListFrame { id: 1, part: 0, is_last: true, v4: Vec::new(), v6 });
        let table = lists.table(&deny(&[1])).unwrap().unwrap();
        assert!(!table.allows("2001:db8:1::1".parse().unwrap()));
        assert!(table.allows("2001:db9::1".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_said_of_the_list_and_a_fresh_start_mends_it() {
        let mut lists = AccessLists::new();
        lists.take(frame(1, 1, true, &[]));
        assert_eq!(lists.table(&deny(&[1])).unwrap_err(), ListError::OutOfTurn(1, 1).to_string());
        lists.take(AccessListFrame { id: 1, part: 0, is_last: true, v4: vec![1, 2, 3], v6: Vec::new() });
        assert_eq!(lists.table(&deny(&[1])).unwrap_err(), ListError::Malformed(1).to_string());
        lists.take(frame(1, 0, true, &[[10, 0, 0, 0, 33]]));
        assert_eq!(lists.table(&deny(&[1])).unwrap_err(), ListError::Malformed(1).to_string());
        lists.take(frame(1, 0, true, &[[10, 0, 0, 0, 8]]));
        assert!(lists.table(&deny(&[1])).is_ok());
        assert_eq!(lists.table(&deny(&[2])).unwrap_err(), ListError::Missing(2).to_string());
    }

    #[test]
    fn what_no_snapshot_names_is_forgotten() {
        let mut lists = AccessLists::new();
        (1..=3).for_each(|id| lists.take(frame(id, 0, true, &[])));
        let (one, two) = (deny(&[1, 2]), deny(&[2]));
        lists.table(&one).unwrap();
        lists.table(&two).unwrap();
        lists.keep([&two].into_iter());
        assert_eq!((lists.ids(), lists.tables.len()), (vec![2], 1));
        assert!(lists.table(&one).is_err());
    }

    #[test]
    fn lists_are_bounded_in_number_and_size() {
        let mut lists = AccessLists::new();
        let many = vec![[10, 0, 0, 0, 8]; 1_000_000];
        (0..2).for_each(|part| lists.take(frame(1, part, false, &many)));
        lists.take(frame(1, 2, true, &many[..1]));
        assert_eq!(lists.table(&deny(&[1])).unwrap_err(), ListError::TooLarge(1).to_string());
        (0..2 * MAX_LISTS as u64).for_each(|id| lists.take(frame(10 + id, 0, true, &[])));
        assert_eq!(lists.lists.len(), MAX_LISTS);
    }
}
