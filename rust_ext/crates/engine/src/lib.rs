//! The data plane of one PoP: worker threads that carry flows, and a control thread that speaks with the daemon.
//!
//! [`serve`] runs it all and returns at the end. It joins the pure machines of `proto` and `tunnel` to the sockets of `io`; what it
//! speaks with the daemon is docs/engine-protocol.md, with other PoPs docs/protocol.md. The engine goes on without a daemon for as
//! long as it likes, and decides nothing about routes: it takes the candidates of its snapshot in order.
//!
//! | module | what |
//! | --- | --- |
//! | `control` | the control thread: one daemon at a time, what it asks and what it is told |
//! | `connection` | its socket: bytes and descriptors to frames and back |
//! | `messages`, `snapshot` | the frames, as types |
//! | `upward` | what waits for the daemon, bounded; `status`: the counters frame |
//! | `compile` | a snapshot checked and made into the tables that workers look up |
//! | `admission` | who is let in, and how many |
//! | `app`, `policy` | apps, and how they treat their clients |
//! | `origin`, `sockets` | what a peer may have dialled; sockets by key |
//! | `shared` | what threads share: tables behind one pointer, commands down, reports up |
//! | `worker`, `turn`, `token` | a worker's loop, what one turn works with, what an event is about |
//! | `edge` | clients and origins, TCP and UDP |
//! | `identity` | who the client is: PROXY headers and the like, to origins and from balancers |
//! | `overlay` | the other PoPs |
//! | `counters`, `records`, `random` | what is counted, what is said of a flow, random numbers |
//!
//! One thread per worker, everything of a flow on one of them, no lock on the way of a packet. A worker's panic is caught: it loses
//! its flows and not its sockets.

mod admission;
mod app;
mod compile;
mod connection;
mod control;
mod counters;
mod denials;
mod edge;
mod identity;
mod messages;
mod origin;
mod outcomes;
mod overlay;
mod policy;
mod random;
mod records;
mod shared;
mod snapshot;
mod sockets;
mod status;
mod tls;
mod token;
mod turn;
mod upward;
mod worker;

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use l4proxy_wire::ids::PopId;

/// A worker's number is one byte on the wire.
pub const MAX_WORKERS: usize = 256;

/// With less, a handful of fast flows would be slower than their paths.
pub const MIN_OVERLAY_MEMORY: usize = 64 << 20;

/// What an engine is told at its start and keeps for life.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Worker threads, at most [`MAX_WORKERS`]. Fixed for the engine's life, so that reuseport groups do not reshuffle.
    pub workers: NonZeroUsize,
    /// Name of this PoP.
    pub pop: String,
    /// What the tunnels of one worker may hold in memory, in bytes; at least [`MIN_OVERLAY_MEMORY`].
    pub overlay_memory_bytes: usize,
}

/// Why an engine did not begin, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// More workers than the overlay's packets can name. The caller's fault.
    #[error("{asked} workers, at most {MAX_WORKERS} are possible")]
    TooManyWorkers {
        /// How many were asked for.
        asked: usize,
    },
    /// The kernel refused something that the engine cannot be without.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl EngineError {
    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// Run an engine on a listening Unix socket until a daemon tells it to end.
///
/// # Errors
/// When the threads or descriptors that it needs cannot be had. What goes wrong later is told to the daemon instead.
pub fn serve(listener: OwnedFd, options: ServeOptions) -> Result<(), EngineError> {
    let workers = options.workers.get();
    if workers > MAX_WORKERS {
        return Err(EngineError::TooManyWorkers { asked: workers });
    }
    // Where it is forbidden the limit stays as it is, and flows beyond it are refused and counted.
    let limit = l4proxy_io::limits::raise_open_files().unwrap_or_else(|_| l4proxy_io::limits::open_files());
    let pop_id = pop_id(&options.pop);
    let shared =
        shared::Shared::new(options.pop, pop_id, workers, random::hasher(), limit.soft, Instant::now())
            .map_err(EngineError::system("cannot make the workers' wakers"))?;
    shared.overlay.set_memory_bytes(options.overlay_memory_bytes.max(MIN_OVERLAY_MEMORY));
    let shared = Arc::new(shared);
    let control = control::Control::new(listener, shared.clone())
        .map_err(EngineError::system("cannot watch the daemon's socket"))?;
    let threads = start(&shared);
    let result = match &threads {
        Ok(_) => control.run().map_err(EngineError::system("cannot wait for the daemon")),
        Err(_) => Ok(()),
    };
    shared.stop();
    for thread in threads? {
        // A worker's panics are caught inside it; one outside has nothing left to tell.
        drop(thread.join());
    }
    result
}

fn start(shared: &Arc<shared::Shared>) -> Result<Vec<std::thread::JoinHandle<()>>, EngineError> {
    let mut threads = Vec::new();
    for index in 0..shared.workers.len() {
        let shared = shared.clone();
        let builder = std::thread::Builder::new().name(format!("l4p-worker-{index}"));
        let thread = builder
            .spawn(move || worker::run(index, &shared))
            .map_err(EngineError::system("cannot start a worker thread"))?;
        threads.push(thread);
    }
    Ok(threads)
}

/// The first four bytes of SHA-256 of the name (docs/protocol.md section 1).
fn pop_id(name: &str) -> PopId {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let mut first = [0; 4];
    first.copy_from_slice(&digest.as_ref()[..4]);
    PopId(u32::from_be_bytes(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pops_id_is_the_beginning_of_the_hash_of_its_name() {
        // printf ams | sha256sum
        assert_eq!(pop_id("ams"), PopId(0x5f9d_e878));
    }
}
