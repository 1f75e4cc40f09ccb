//! What flows really got, for the control plane: connects and endings by app and way, packets and round trips by path, summed by each worker
//! and taken by the control thread. The daemon hears some rows a second, and never of one flow. What follows from them is decided there.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use l4proxy_wire::ids::PathId;

use crate::counters::Fate;
use crate::edge::ending::DialFailure;
use crate::messages::{FlowOutcomes, PathReport};
use crate::overlay::{HandleView, PathCarried};

use l4proxy_wire::codes::Reason;

/// Ways of apps that one worker sums at a time, each app with each path: what was seen in a second of hundreds of apps with some paths each.
pub(crate) const MAX_WAYS: usize = 4_096;

/// Paths that one worker sums at a time: more than forty each to a hundred peers.
pub(crate) const MAX_PATHS: usize = 4_096;

/// How many of each.
type Counts = [u64; Fate::ALL.len()];

/// App, egress, links of the path.
type WayName = (String, Option<String>, Vec<String>);

/// What one worker has seen since the control thread asked last.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    /// By app, then by handle and path; the handle of flows that are dialled here is `None`.
    ways: HashMap<String, HashMap<Option<(u32, PathId)>, WayTally>>,
    ways_count: usize,
    paths: HashMap<(u32, PathId), PathCarried>,
}

#[derive(Debug)]
struct WayTally {
    egress: Option<String>,
    links: Vec<String>,
    counts: Counts,
}

impl Outcomes {
    /// Count what became of a flow of an app. `way`: the handle it went by; None: it was dialled here. False: the table is full.
    pub(crate) fn note(&mut self, app: &str, way: Option<(u32, &HandleView<'_>)>, outcome: Fate) -> bool {
        let key = way.map(|(handle, view)| (handle, view.path));
        let known = self.ways.get_mut(app).and_then(|ways| ways.get_mut(&key));
        if let Some(tally) = known {
            tally.counts[outcome as usize] += 1;
            return true;
        }
        if self.ways_count >= MAX_WAYS {
            return false;
        }
        self.ways_count += 1;
        let mut tally = WayTally {
            egress: way.map(|(_, view)| view.peer.to_owned()),
            links: way.map(|(_, view)| view.links.to_vec()).unwrap_or_default(),
            counts: [0; Fate::ALL.len()],
        };
        tally.counts[outcome as usize] = 1;
        self.ways.entry_ref(app).or_default().insert(key, tally);
        true
    }

    /// Add what connections have carried over their paths. Returns how many rows found the table full.
    pub(crate) fn add_paths(&mut self, carried: impl IntoIterator<Item = PathCarried>) -> u64 {
        let mut full = 0;
        for row in carried {
            let key = (row.handle, row.path);
            if let Some(known) = self.paths.get_mut(&key) {
                known.add(&row);
            } else if self.paths.len() < MAX_PATHS {
                self.paths.insert(key, row);
            } else {
                full += 1;
            }
        }
        full
    }

    /// Take everything, and begin anew.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Take what became of flows, and leave what paths carried.
    pub(crate) fn take_flows(&mut self) -> Self {
        let ways = std::mem::take(&mut self.ways);
        Self { ways, ways_count: std::mem::take(&mut self.ways_count), paths: HashMap::new() }
    }
}

/// The sums of several workers, in the words of the protocol.
#[derive(Debug, Default)]
pub(crate) struct Summed {
    ways: BTreeMap<WayName, Counts>,
    paths: BTreeMap<(u32, u32), PathCarried>,
}

impl Summed {
    /// Add what one worker has seen.
    pub(crate) fn add(&mut self, outcomes: Outcomes) {
        for (app, ways) in outcomes.ways {
            for tally in ways.into_values() {
                let counts = self.ways.entry((app.clone(), tally.egress, tally.links)).or_default();
                for (sum, count) in counts.iter_mut().zip(tally.counts) {
                    *sum += count;
                }
            }
        }
        for ((handle, path), row) in outcomes.paths {
            match self.paths.get_mut(&(handle, path.0)) {
                Some(known) => known.add(&row),
                None => drop(self.paths.insert((handle, path.0), row)),
            }
        }
    }

    /// What became of flows, by app and way.
    pub(crate) fn flows(&self) -> Vec<FlowOutcomes> {
        let row = |((app, egress, links), counts): (&WayName, &Counts)| {
            let named = Fate::ALL.iter().map(|&outcome| (outcome.as_str(), counts[outcome as usize]));
            FlowOutcomes {
                app: app.clone(),
                egress: egress.clone(),
                links: links.clone(),
                counts: named.filter(|&(_, count)| count > 0).collect(),
            }
        };
        self.ways.iter().map(row).collect()
    }

    /// What paths carried.
    pub(crate) fn paths(&self) -> Vec<PathReport> {
        let row = |carried: &PathCarried| PathReport {
            peer: carried.peer.clone(),
            policy: carried.policy.clone(),
            path_id: carried.path.0,
            links: carried.links.clone(),
            rtt_us: carried.rtt_us(),
            packets: carried.packets,
            lost: carried.lost,
            bytes_out: carried.bytes_out,
            bytes_in: carried.bytes_in,
        };
        self.paths.values().map(row).collect()
    }
}

/// What a failed attempt to reach an origin says of the way; None: nothing, because it was this host that lacked something.
pub(crate) const fn of_failure(failure: DialFailure) -> Option<Fate> {
    match failure {
        DialFailure::Refused | DialFailure::Peer(Reason::Refused) => Some(Fate::Refused),
        DialFailure::Unreachable | DialFailure::Peer(Reason::Unreachable) => Some(Fate::Unreachable),
        DialFailure::TimedOut | DialFailure::Peer(Reason::TimedOut) => Some(Fate::TimedOut),
        DialFailure::Reset | DialFailure::Peer(Reason::Reset) => Some(Fate::ResetEarly),
        DialFailure::TunnelLost => Some(Fate::NoTunnel),
        DialFailure::Peer(
            Reason::UnknownApp
            | Reason::UnknownOrigin
            | Reason::Denied
            | Reason::LimitReached
            | Reason::Draining
            | Reason::LocalError
            | Reason::ProtocolError
            | Reason::Idle,
        ) => Some(Fate::EgressRefused),
        DialFailure::Tls(_)
        | DialFailure::Peer(Reason::OriginTls)
        | DialFailure::Denied
        | DialFailure::NoSource
        | DialFailure::Unresolved => Some(Fate::Failed),
        DialFailure::Shortage | DialFailure::NoRoute | DialFailure::Local => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn view<'a>(peer: &'a str, path: u32, links: &'a [String]) -> HandleView<'a> {
        HandleView { peer, policy: "off", path: PathId(path), links, path_changes: 0 }
    }

    fn carried(handle: u32, path: u32, packets: u64, rtt_ms: u64) -> PathCarried {
        PathCarried {
            handle,
            path: PathId(path),
            peer: "iad".into(),
            policy: "off".into(),
            links: vec!["ams/a>iad/a".into()],
            rtt_us_packets: u128::from(Duration::from_millis(rtt_ms).as_micros() as u64 * packets),
            packets,
            lost: 1,
            bytes_out: 10,
            bytes_in: 20,
        }
    }

    #[test]
    fn workers_are_summed_and_equal_ways_of_two_handles_are_one() {
        let links = [String::from("ams/a>iad/a")];
        let (mut one, mut two) = (Outcomes::default(), Outcomes::default());
        for _ in 0..3 {
            assert!(one.note("web", None, Fate::Tried));
        }
        assert!(one.note("web", Some((1, &view("iad", 5, &links))), Fate::Refused));
        assert!(two.note("web", Some((2, &view("iad", 5, &links))), Fate::Refused));
        assert!(two.note("dns", None, Fate::Silent));
        let mut summed = Summed::default();
        summed.add(one.take());
        summed.add(two.take());
        let rows: Vec<_> = summed
            .flows()
            .into_iter()
            .map(|row| (row.app, row.egress, row.links.len(), row.counts.into_iter().collect::<Vec<_>>()))
            .collect();
        assert_eq!(
            rows,
            [
                ("dns".into(), None, 0, vec![("silent", 1)]),
                ("web".into(), None, 0, vec![("tried", 3)]),
                ("web".into(), Some("iad".into()), 1, vec![("refused", 2)]),
            ]
        );
        let mut again = Summed::default();
        again.add(one.take());
        assert!(again.flows().is_empty(), "it is told once");
    }

    #[test]
    fn a_full_table_of_ways_counts_on_what_it_knows_and_refuses_the_rest() {
        let mut outcomes = Outcomes::default();
        let links = [];
        for path in 0..MAX_WAYS as u32 {
            assert!(outcomes.note("web", Some((1, &view("iad", path, &links))), Fate::Tried));
        }
        assert!(!outcomes.note("other", None, Fate::Tried));
        assert!(outcomes.note("web", Some((1, &view("iad", 7, &links))), Fate::Refused));
        drop(outcomes.take_flows());
        assert!(outcomes.note("other", None, Fate::Tried), "room again");
    }

    #[test]
    fn paths_are_summed_with_round_trips_by_packets_and_a_full_table_says_so() {
        let mut outcomes = Outcomes::default();
        assert_eq!(outcomes.add_paths([carried(1, 5, 30, 10), carried(1, 5, 10, 50)]), 0);
        assert!(outcomes.note("web", None, Fate::Tried));
        let mut summed = Summed::default();
        summed.add(outcomes.take_flows());
        assert!(summed.paths().is_empty() && summed.flows().len() == 1, "flows alone");
        summed.add(outcomes.take());
        let paths = summed.paths();
        assert_eq!((paths.len(), paths[0].rtt_us, paths[0].packets, paths[0].lost), (1, 20_000, 40, 2));
        let many = (0..MAX_PATHS as u32 + 3).map(|path| carried(1, path, 1, 1));
        assert_eq!(outcomes.add_paths(many), 3);
    }

    #[test]
    fn what_this_host_lacks_says_nothing_of_a_way() {
        assert_eq!(of_failure(DialFailure::Shortage), None);
        assert_eq!(of_failure(DialFailure::NoRoute), None);
        assert_eq!(of_failure(DialFailure::Peer(Reason::Refused)), Some(Fate::Refused));
        assert_eq!(of_failure(DialFailure::Peer(Reason::Draining)), Some(Fate::EgressRefused));
        assert_eq!(of_failure(DialFailure::TunnelLost), Some(Fate::NoTunnel));
    }
}
