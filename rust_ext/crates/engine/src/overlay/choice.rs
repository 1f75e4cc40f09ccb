//! Which of its paths a handle takes, in the tables' own terms: `proto::choice` decides; the keeper carries it out.

use l4proxy_proto::choice;
use l4proxy_proto::liveness::Liveness;
use l4proxy_wire::ids::PathId;

use super::tables::{Handle, Path};

/// What a handle's packets are to do: [`choice::Choice`], with the paths themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) active: &'a Path,
    pub(super) copy: Option<&'a Path>,
    pub(super) second: Option<&'a Path>,
    pub(super) mtu: u16,
    pub(super) is_lossy: bool,
}

/// By what is known now; `None`: the handle has no path at all. `is_doubtful` is asked of paths that hellos say nothing of yet.
pub(super) fn choose<'a>(
    liveness: &Liveness,
    handle: &'a Handle,
    is_doubtful: impl Fn(&Path) -> bool,
) -> Option<Choice<'a>> {
    let paths = &handle.paths;
    let ids: Vec<PathId> = paths.iter().map(|path| path.id).collect();
    let is_disjoint = |one: usize, other: usize| paths[one].is_disjoint(&paths[other]);
    let made = choice::choose(liveness, handle.peer, &ids, |place| is_doubtful(&paths[place]), is_disjoint)?;
    Some(Choice {
        active: &paths[made.active],
        copy: made.copy.map(|place| &paths[place]),
        second: made.second.map(|place| &paths[place]),
        mtu: made.mtu,
        is_lossy: made.is_lossy,
    })
}
