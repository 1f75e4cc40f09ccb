//! The bytes of a flow while it relays: what the relay says is to be done next, done to the ends. Between two sockets bytes may be spliced;
//! where an end is a stream or TLS they are copied.

use l4proxy_io::Sent;
use l4proxy_io::splice::Filled;
use l4proxy_proto::relay::{Mode, Step, Way};

use super::super::super::ending::{Ending, Side};
use super::super::ends::{End, Moved, Scratch, finish, receive, transmit};
use super::super::pipes::Lent;
use super::{Flow, Outcome, other, source_of};
use crate::counters::{AppValue, Value};
use crate::turn::Turn;

/// Bytes that one flow may move before the others get their turn: a pipe full. With more at once, the receivers of many fast flows starve
/// and drown by turns, which has cost a fifth more CPU a byte.
const TURN_BYTES: usize = 64 * 1024;

/// The same for a flow that is polled: it has few beside it.
const POLLED_TURN_BYTES: usize = 512 * 1024;

/// Steps that one flow may take before the others get their turn: a flow of tiny reads must not hold them up either.
const TURN_STEPS: usize = 64;

/// Bytes that all flows of a worker may hold for slow receivers before reads become small.
const MAX_HELD: usize = 64 << 20;

/// What a read is then.
const SCARCE_READ: usize = 4 * 1024;

/// The most that is read for a stream of the overlay: what it takes in one turn of its own. More would be copied aside, and lie there until
/// it is out of the cache (docs/decisions/0021).
const STREAM_READ: usize = 64 * 1024;

impl Flow {
    /// Carry bytes until nothing can be done or the turn is over.
    pub(crate) fn pump(&mut self, turn: &mut Turn<'_>, scratch: &mut Scratch) -> Outcome {
        if let Err(ending) = self.flush() {
            return Outcome::Ended(ending);
        }
        let mut budget = if self.coalescing.is_polled() { POLLED_TURN_BYTES } else { TURN_BYTES };
        for _ in 0..TURN_STEPS {
            let (way, step) = self.relay.next();
            let moved = match step {
                Step::Read { limit, mode } => match (self.allowance(way, limit, turn), mode) {
                    (Some(limit), Mode::Copy) => self.copy(way, limit, turn, scratch),
                    (Some(limit), Mode::Splice) => self.fill(way, limit, turn, scratch),
                    (None, _) => Ok(0),
                },
                Step::Write(Mode::Copy) => self.write_held(way, turn, scratch),
                Step::Write(Mode::Splice) => self.drain(way, turn),
                Step::ReturnPipe => {
                    if let Some(pipe) = self.held[way as usize].pipe.take() {
                        scratch.pipes.give_back(pipe);
                    }
                    self.relay.lane_mut(way).on_pipe_returned();
                    Ok(0)
                }
                Step::ShutdownWrite => self.shutdown_write(way, turn),
                Step::Wait => return Outcome::Wait,
                Step::Finished => {
                    return Outcome::Ended(Ending::Finished(self.first_ended.unwrap_or(Side::Client)));
                }
            };
            match moved {
                Ok(count) => budget = budget.saturating_sub(count),
                Err(ending) => return Outcome::Ended(ending),
            }
            if budget == 0 {
                break;
            }
        }
        Outcome::Again
    }

    /// Read into the shared buffer and write it on; keep what the receiver does not take.
    fn copy(
        &mut self,
        way: Way,
        limit: usize,
        turn: &mut Turn<'_>,
        scratch: &mut Scratch,
    ) -> Result<usize, Ending> {
        let side = source_of(way);
        let limit = if scratch.held > MAX_HELD { limit.min(SCARCE_READ) } else { limit };
        let (source, sink) = self.ends(way);
        let limit = if sink.is_stream() { limit.min(STREAM_READ) } else { limit };
        let (count, exhausted) = match receive(source, side, limit, scratch, turn)? {
            Moved::Bytes { count, exhausted } => (count, exhausted),
            Moved::Blocked => {
                self.relay.lane_mut(way).on_read_blocked();
                return Ok(0);
            }
            Moved::End => {
                self.on_end(way);
                return Ok(0);
            }
        };
        let written = transmit(sink, other(side), &scratch.buffer[..count], turn);
        if way == Way::ToOrigin {
            self.sniffer.look(&scratch.buffer[..count], &mut self.meta);
        }
        self.on_read(way, count, exhausted, turn.now);
        let written = written?;
        self.on_moved(way, written, turn);
        turn.count(Value::CopiedBytes, written as u64);
        if written < count {
            let held = &mut self.held[way as usize];
            held.bytes.clear();
            held.bytes.extend_from_slice(&scratch.buffer[written..count]);
            held.start = 0;
            scratch.held += count - written;
        }
        Ok(count)
    }

    /// Write what is kept in memory.
    fn write_held(&mut self, way: Way, turn: &mut Turn<'_>, scratch: &mut Scratch) -> Result<usize, Ending> {
        let sink = match way {
            Way::ToOrigin => &mut self.origin,
            Way::ToClient => &mut self.client,
        };
        let held = &self.held[way as usize];
        let count = transmit(sink, other(source_of(way)), &held.bytes[held.start..], turn)?;
        self.on_moved(way, count, turn);
        turn.count(Value::CopiedBytes, count as u64);
        let held = &mut self.held[way as usize];
        held.start += count;
        if held.start == held.bytes.len() {
            scratch.held = scratch.held.saturating_sub(held.bytes.len());
            (held.bytes, held.start) = (Vec::new(), 0);
        }
        Ok(count)
    }

    fn fill(
        &mut self,
        way: Way,
        limit: usize,
        turn: &Turn<'_>,
        scratch: &mut Scratch,
    ) -> Result<usize, Ending> {
        let side = source_of(way);
        if self.held[way as usize].pipe.is_none() {
            match scratch.pipes.take(self.coalescing.is_polled()) {
                Some(pipe) => {
                    self.held[way as usize].pipe = Some(pipe);
                    self.relay.lane_mut(way).on_pipe();
                }
                None => {
                    self.relay.lane_mut(way).on_no_pipe();
                    return Ok(0);
                }
            }
        }
        let source = match side {
            Side::Client => &self.client,
            Side::Origin => &self.origin,
        };
        let (Some(Lent { pipe, .. }), End::Socket(source)) = (self.held[way as usize].pipe.as_mut(), source)
        else {
            return Err(Ending::Local);
        };
        let filled = pipe.fill(source, limit).map_err(|error| Ending::of_error(side, &error))?;
        match filled {
            Filled::Bytes(count) => self.on_read(way, count, false, turn.now),
            // "Unclear" is for pipes that hold bytes; the relay never fills those.
            Filled::SocketEmpty | Filled::Unclear => self.relay.lane_mut(way).on_read_blocked(),
            Filled::End => self.on_end(way),
        }
        Ok(0)
    }

    fn drain(&mut self, way: Way, turn: &Turn<'_>) -> Result<usize, Ending> {
        let side = other(source_of(way));
        let sink = match side {
            Side::Client => &self.client,
            Side::Origin => &self.origin,
        };
        let (Some(Lent { pipe, .. }), End::Socket(sink)) = (self.held[way as usize].pipe.as_mut(), sink)
        else {
            return Err(Ending::Local);
        };
        match pipe.drain(sink).map_err(|error| Ending::of_error(side, &error))? {
            Sent::Bytes(count) => {
                self.on_moved(way, count, turn);
                turn.count(Value::SplicedBytes, count as u64);
                Ok(count)
            }
            Sent::WouldBlock => {
                self.relay.lane_mut(way).on_write_blocked();
                Ok(0)
            }
        }
    }

    /// The receiver took bytes; none means that it is full.
    fn on_moved(&mut self, way: Way, count: usize, turn: &Turn<'_>) {
        let is_full = self.ends(way).1.is_full();
        let lane = self.relay.lane_mut(way);
        if count == 0 {
            lane.on_write_blocked();
            return;
        }
        lane.on_written(count);
        if is_full {
            // TLS has taken them, and its socket not.
            lane.on_write_blocked();
        }
        let count = if way == Way::ToOrigin { count - self.take_announced(count) } else { count };
        self.bytes[way as usize] += count as u64;
        self.moved += count;
        self.last_used = turn.now;
        let counted = match way {
            Way::ToOrigin => AppValue::TcpBytesToOrigin,
            Way::ToClient => AppValue::TcpBytesToClient,
        };
        turn.count_app(&self.meta.app, counted, count as u64);
        if way == Way::ToClient && self.meta.first_byte.is_none() {
            self.meta.first_byte = Some(turn.now.saturating_duration_since(self.meta.started));
        }
    }

    /// How many of the bytes that went to the origin are ours and not the client's.
    fn take_announced(&mut self, count: usize) -> usize {
        let taken = count.min(self.announced);
        self.announced -= taken;
        taken
    }

    fn on_end(&mut self, way: Way) {
        self.relay.lane_mut(way).on_read_end();
        self.first_ended.get_or_insert(source_of(way));
    }

    fn shutdown_write(&mut self, way: Way, turn: &mut Turn<'_>) -> Result<usize, Ending> {
        let (source, (_, sink)) = (source_of(way), self.ends(way));
        let is_said = finish(sink, other(source), turn)?;
        let lane = self.relay.lane_mut(way);
        if is_said {
            lane.on_shutdown()
        } else {
            lane.on_write_blocked()
        }
        Ok(0)
    }

    /// Send what TLS still holds for either socket.
    fn flush(&mut self) -> Result<(), Ending> {
        for (side, way) in [(Side::Client, Way::ToClient), (Side::Origin, Way::ToOrigin)] {
            if let End::Tls(session) = self.end_mut(side)
                && session.is_full()
                && !session.flush().map_err(|error| Ending::of_session(side, &error))?
            {
                self.relay.lane_mut(way).on_write_blocked();
            }
        }
        Ok(())
    }

    /// Source and sink.
    const fn ends(&mut self, way: Way) -> (&mut End, &mut End) {
        match way {
            Way::ToOrigin => (&mut self.client, &mut self.origin),
            Way::ToClient => (&mut self.origin, &mut self.client),
        }
    }
}
