//! Which of its paths a handle takes, and over which other one its packets go as well. Paths are
//! named by their place in the handle. Decides only.
//!
//! | state of a path | taken |
//! | --- | --- |
//! | alive, or the primary and not known yet | first |
//! | alive, but grey, dropping large packets, or back only a short while ago | if there is none of those |
//! | a backup that nothing is known of | then |
//! | one that nothing is known of, and should be, or whose first PoP is out of touch | then |
//! | dead, but just heard again | when all are dead |
//! | dead | when nothing else is left; the primary before others |
//!
//! Among equals the one that stands first in the handle: routes are made elsewhere, with better numbers than these.

use l4proxy_wire::ids::{PathId, PopId};

use crate::liveness::{Liveness, PathState};

/// What a handle's packets are to do; paths by their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The path that they take.
    pub active: usize,
    /// The path that all of them take as well, because the active one may have died.
    pub copy: Option<usize>,
    /// A living path that shares no link with the active one, for those that are to be sent twice.
    pub second: Option<usize>,
    /// The largest packet that passes wherever they go, in bytes, without the outer header.
    pub mtu: u16,
    /// The active path loses packets, and not by our own load.
    pub is_lossy: bool,
}

/// By what is known now of the paths to `peer`; `None`: there is no path at all. `is_doubtful` is asked of paths that hellos say nothing of
/// yet, `is_disjoint` whether two paths share no link.
pub fn choose(
    liveness: &Liveness,
    peer: PopId,
    paths: &[PathId],
    is_doubtful: impl Fn(usize) -> bool,
    is_disjoint: impl Fn(usize, usize) -> bool,
) -> Option<Choice> {
    let rank = |place: usize| {
        let quality = liveness.path_quality(peer, paths[place]);
        match liveness.path_state(peer, paths[place]) {
            PathState::Alive if quality.is_grey || quality.drops_large || quality.is_on_probation => 1,
            PathState::Alive => 0,
            PathState::Unknown if is_doubtful(place) => 3,
            PathState::Unknown => u8::from(place > 0) * 2,
            PathState::Dead => 4 + u8::from(!quality.shows_life),
        }
    };
    // A copy that goes over such a path is likely to arrive.
    let is_sound = |&place: &usize| {
        liveness.path_state(peer, paths[place]) == PathState::Alive
            && !liveness.path_quality(peer, paths[place]).is_suspect
    };
    let active = (0..paths.len()).min_by_key(|&place| (rank(place), place))?;
    let quality = liveness.path_quality(peer, paths[active]);
    let others = || (0..paths.len()).filter(|&place| paths[place] != paths[active]).filter(is_sound);
    let second = others().find(|&place| is_disjoint(place, active));
    let copy = if quality.is_suspect { second.or_else(|| others().next()) } else { None };
    let mtu_of = |place: usize| liveness.path_quality(peer, paths[place]).mtu;
    let mtu = [copy, second].into_iter().flatten().map(mtu_of).fold(quality.mtu, u16::min);
    Some(Choice { active, copy, second, mtu, is_lossy: quality.is_lossy })
}
