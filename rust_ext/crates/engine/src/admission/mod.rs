//! Who is let in, and how many: the one place where a new flow of a client is admitted or refused, for TCP and UDP alike.
//!
//! | module | what |
//! | --- | --- |
//! | `bandwidth` | how fast one flow may go |
//! | `lists` | contents of access lists as they come from the daemon, and the tables made of them |
//! | `memory` | whether this host runs out of memory: then new flows are refused before live ones suffer |
//! | `rates` | new flows per second, of an app and of each source |
//! | `recheck` | live flows whose clients a new list denies |
//!
//! The order is cheap before dear, and what costs somebody else nothing first: memory, lists, caps, the source's rate, the app's rate.
//! A refused flow takes nothing from any of the later ones.

pub(crate) mod bandwidth;
pub(crate) mod lists;
pub(crate) mod memory;
pub(crate) mod rates;
pub(crate) mod recheck;

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use l4proxy_proto::rate::Taken;
use l4proxy_proto::sessions::sources::Source;

use crate::app::Permit;
use crate::compile::Listener;
use crate::counters::{AppValue, Dropped};
use crate::turn::Turn;

/// A place for a flow of a client that came here, or why there is none. What is refused is counted for the app by its reason.
pub(crate) fn admit(binding: &Listener, client: IpAddr, turn: &Turn<'_>) -> Result<Permit, Dropped> {
    let admitted = try_admit(binding, client, turn);
    if let Err(reason) = admitted
        && let Some(value) = counted_as(reason)
    {
        turn.count_app(&binding.app, value, 1);
    }
    admitted
}

fn try_admit(binding: &Listener, client: IpAddr, turn: &Turn<'_>) -> Result<Permit, Dropped> {
    let app = &binding.app;
    if turn.shared.is_short_of_memory.load(Ordering::Relaxed) {
        return Err(Dropped::MemoryShort);
    }
    if binding.access.as_ref().is_some_and(|table| !table.allows(client)) {
        return Err(Dropped::AccessDenied);
    }
    let permit = Permit::for_client(app, client)?;
    let limits = &app.policy.limits;
    let source = Source::of(client, limits.source_prefix_v6);
    match app.state.new_flows.take_of_source(turn.now, source, limits) {
        Taken::Yes => {}
        Taken::No => return Err(Dropped::SourceNewFlowRate),
        Taken::NoPlace => turn.count_app(app, AppValue::SourceRatesFull, 1),
    }
    if app.state.new_flows.take(turn.now, limits) { Ok(permit) } else { Err(Dropped::NewFlowRate) }
}

/// What a refusal of ours is counted as for its app.
const fn counted_as(reason: Dropped) -> Option<AppValue> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are not decided here")]
    match reason {
        Dropped::MemoryShort => Some(AppValue::RefusedMemory),
        Dropped::AccessDenied => Some(AppValue::RefusedAccess),
        Dropped::AppFlowsFull => Some(AppValue::RefusedFlows),
        Dropped::SourceFlowsFull => Some(AppValue::RefusedSourceFlows),
        Dropped::NewFlowRate => Some(AppValue::RefusedRate),
        Dropped::SourceNewFlowRate => Some(AppValue::RefusedSourceRate),
        _ => None,
    }
}
