//! Which of its paths a handle takes, and over which other one its packets go as well. Decides; the keeper carries it out.
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

use l4proxy_proto::liveness::{Liveness, PathState};

use super::tables::{Handle, Path};

/// What a handle's packets are to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    /// The path that they take.
    pub(super) active: &'a Path,
    /// The path that all of them take as well, because the active one may have died.
    pub(super) copy: Option<&'a Path>,
    /// A living path that shares no link with the active one, for those that are to be sent twice.
    pub(super) second: Option<&'a Path>,
    /// The largest packet that passes wherever they go, in bytes, without the outer header.
    pub(super) mtu: u16,
    /// The active path loses packets, and not by our own load.
    pub(super) is_lossy: bool,
}

/// By what is known now; `None`: the handle has no path at all. `is_doubtful` is asked of paths that hellos say nothing of yet.
pub(super) fn choose<'a>(
    liveness: &Liveness,
    handle: &'a Handle,
    is_doubtful: impl Fn(&Path) -> bool,
) -> Option<Choice<'a>> {
    let places = handle.paths.iter().enumerate();
    let active =
        places.min_by_key(|&(place, path)| (rank(liveness, handle, place, path, &is_doubtful), place))?.1;
    let quality = liveness.path_quality(handle.peer, active.id);
    let others =
        || handle.paths.iter().filter(|path| path.id != active.id && is_sound(liveness, handle, path));
    let second = others().find(|path| path.is_disjoint(active));
    let copy = if quality.is_suspect { second.or_else(|| others().next()) } else { None };
    let mtu_of = |path: &Path| liveness.path_quality(handle.peer, path.id).mtu;
    let mtu = [copy, second].into_iter().flatten().map(mtu_of).fold(quality.mtu, u16::min);
    Some(Choice { active, copy, second, mtu, is_lossy: quality.is_lossy })
}

fn rank(
    liveness: &Liveness,
    handle: &Handle,
    place: usize,
    path: &Path,
    is_doubtful: impl Fn(&Path) -> bool,
) -> u8 {
    let quality = liveness.path_quality(handle.peer, path.id);
    match liveness.path_state(handle.peer, path.id) {
        PathState::Alive if quality.is_grey || quality.drops_large || quality.is_on_probation => 1,
        PathState::Alive => 0,
        PathState::Unknown if is_doubtful(path) => 3,
        PathState::Unknown => u8::from(place > 0) * 2,
        PathState::Dead => 4 + u8::from(!quality.shows_life),
    }
}

/// Whether a copy that goes over this path is likely to arrive.
fn is_sound(liveness: &Liveness, handle: &Handle, path: &Path) -> bool {
    liveness.path_state(handle.peer, path.id) == PathState::Alive
        && !liveness.path_quality(handle.peer, path.id).is_suspect
}
