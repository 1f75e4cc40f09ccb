//! What a TCP relay does next, in each of its two directions: read, write, change the way of copying, say the end on, or wait.
//!
//! [`Relay`] knows neither sockets nor bytes. The shell carries a [`Step`] out and tells how it went; it tells readiness as it
//! comes (edge-triggered: once). What this module guarantees, whatever the shell is told by the kernel:
//!
//! - **Backpressure**: nothing is read while bytes wait to be written, so a direction never holds more than one read.
//! - **Half-close**: the end of one direction is said on after its last byte, and the other direction goes on.
//! - **Nothing is lost at the end**: a direction is finished only when its end was read *and* nothing is held.
//! - **No read into a pipe that holds bytes**: "would block" then always means an empty socket, never a full pipe.
//!
//! How long a quiet relay may live, and how a reset is passed on, is the shell's business: see [`Relay::is_half_closed`].

#[cfg(test)]
mod tests;

/// The most that one read takes in copy mode: the worker's shared buffer. Larger buffers halve the CPU per byte up to here.
pub const COPY_BUFFER: usize = 256 * 1024;

/// The most that one read takes until the receiver has shown that it keeps up, and again after it has not: what a slow receiver
/// leaves over is kept per flow, so it must stay small.
pub const CAUTIOUS_READ: usize = 64 * 1024;

/// Reads of at least this size, [`LARGE_READS`] in a row, make a direction a bulk transfer that is worth a pipe: from here on the copy
/// is dearer than the second system call. A larger bound would leave flows that share a link by copying: each finds little at a time.
pub const LARGE_READ: usize = 8 * 1024;
/// See [`LARGE_READ`].
pub const LARGE_READS: u8 = 2;

/// Through a pipe, reads below this size, [`SMALL_READS`] in a row, end the bulk transfer: two system calls for so little are no gain.
pub const SMALL_READ: usize = 2 * 1024;
/// See [`SMALL_READ`].
pub const SMALL_READS: u8 = 4;

/// What one splice call may take: more than the pipe's 64 kB, because a slot holds a fragment, and those of a fast sender are large.
pub const SPLICE_READ: usize = 1024 * 1024;

/// One of the two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// From the client to the origin.
    ToOrigin,
    /// From the origin to the client.
    ToClient,
}

impl Way {
    /// Both, in the order in which [`Relay`] keeps them.
    pub const BOTH: [Self; 2] = [Self::ToOrigin, Self::ToClient];

    /// The opposite direction.
    #[must_use]
    pub const fn back(self) -> Self {
        match self {
            Self::ToOrigin => Self::ToClient,
            Self::ToClient => Self::ToOrigin,
        }
    }
}

/// How a direction moves bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Through the worker's shared buffer; what the receiver does not take is kept with the flow.
    Copy,
    /// Through a kernel pipe that the flow holds for as long as bytes are in it.
    Splice,
}

/// What the shell shall do next in one direction, and then tell how it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read at most `limit` bytes from the sender: into the shared buffer and straight on to the receiver ([`Mode::Copy`]), or into
    /// a pipe ([`Mode::Splice`]; take one from the pool, or call [`Lane::on_no_pipe`]).
    Read {
        /// Bytes.
        limit: usize,
        /// Into what.
        mode: Mode,
    },
    /// Write what is held.
    Write(Mode),
    /// Give the empty pipe back to the pool.
    ReturnPipe,
    /// Tell the receiver that nothing more comes.
    ShutdownWrite,
    /// Nothing can be done before the next readiness.
    Wait,
    /// This direction has ended.
    Finished,
}

/// One direction.
#[derive(Debug, Clone)]
pub struct Lane {
    mode: Mode,
    may_splice: bool,
    has_pipe: bool,
    source_ready: bool,
    /// The sender has closed: what follows the bytes is the end, so a short read does not mean "empty".
    source_hung_up: bool,
    sink_ready: bool,
    ended: bool,
    shut: bool,
    /// Reads in a row that speak for the other mode.
    streak: u8,
    /// The receiver has taken the last write whole.
    keeps_up: bool,
    held: usize,
}

impl Lane {
    const fn new(may_splice: bool) -> Self {
        Self {
            mode: Mode::Copy,
            may_splice,
            has_pipe: false,
            source_ready: true,
            source_hung_up: false,
            sink_ready: true,
            ended: false,
            shut: false,
            streak: 0,
            keeps_up: false,
            held: 0,
        }
    }

    /// What to do next.
    #[must_use]
    pub const fn next(&self) -> Step {
        if self.held > 0 {
            return if self.sink_ready { Step::Write(self.held_in()) } else { Step::Wait };
        }
        if self.ended {
            return match (self.has_pipe, self.shut) {
                (true, _) => Step::ReturnPipe,
                (false, false) if self.sink_ready => Step::ShutdownWrite,
                (false, false) => Step::Wait,
                (false, true) => Step::Finished,
            };
        }
        let may_read = self.source_ready && self.sink_ready;
        if self.has_pipe && !(may_read && matches!(self.mode, Mode::Splice)) {
            return Step::ReturnPipe;
        }
        if !may_read {
            return Step::Wait;
        }
        let limit = match self.mode {
            Mode::Splice => SPLICE_READ,
            Mode::Copy if self.keeps_up => COPY_BUFFER,
            Mode::Copy => CAUTIOUS_READ,
        };
        Step::Read { limit, mode: self.mode }
    }

    const fn held_in(&self) -> Mode {
        if self.has_pipe { Mode::Splice } else { Mode::Copy }
    }

    /// Bytes that were read and not yet written.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// The receiver takes more, as far as is known.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.sink_ready
    }

    /// The sender's end has been read.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether everything was said on, the end included.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.ended && self.shut && self.held == 0
    }

    /// The sender may have something. `hung_up`: its end is there, too.
    pub const fn on_source_ready(&mut self, hung_up: bool) {
        self.source_ready = true;
        self.source_hung_up |= hung_up;
    }

    /// The receiver may take something.
    pub const fn on_sink_ready(&mut self) {
        self.sink_ready = true;
    }

    /// The receiver takes nothing yet: it is still being connected.
    pub const fn on_sink_absent(&mut self) {
        self.sink_ready = false;
    }

    /// `bytes` were read. `exhausted`: fewer than asked for, so the sender has nothing more (a pipe never knows).
    pub const fn on_read(&mut self, bytes: usize, exhausted: bool) {
        self.held += bytes;
        if exhausted && !self.source_hung_up && matches!(self.mode, Mode::Copy) {
            self.source_ready = false;
        }
        let speaks_for_change = match self.mode {
            Mode::Copy => self.may_splice && bytes >= LARGE_READ,
            Mode::Splice => bytes < SMALL_READ,
        };
        self.streak = if speaks_for_change { self.streak.saturating_add(1) } else { 0 };
        match self.mode {
            Mode::Copy if self.streak >= LARGE_READS => self.change_to(Mode::Splice),
            Mode::Splice if self.streak >= SMALL_READS => self.change_to(Mode::Copy),
            Mode::Copy | Mode::Splice => {}
        }
    }

    const fn change_to(&mut self, mode: Mode) {
        self.mode = mode;
        self.streak = 0;
    }

    /// The sender has nothing.
    pub const fn on_read_blocked(&mut self) {
        self.source_ready = false;
    }

    /// The sender has closed its direction, and everything before that was read.
    pub const fn on_read_end(&mut self) {
        self.ended = true;
    }

    /// A pipe was taken from the pool for this direction.
    pub const fn on_pipe(&mut self) {
        self.has_pipe = true;
    }

    /// There is no pipe to be had: go on by copying.
    pub const fn on_no_pipe(&mut self) {
        self.change_to(Mode::Copy);
    }

    /// The pipe is back in the pool.
    pub const fn on_pipe_returned(&mut self) {
        self.has_pipe = false;
    }

    /// The receiver took `bytes`. In copy mode less than all means that it is full.
    pub const fn on_written(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
        self.keeps_up = self.held == 0;
        if self.held > 0 && !self.has_pipe {
            self.sink_ready = false;
        }
    }

    /// The receiver takes nothing more for now, or could not be told the end yet.
    pub const fn on_write_blocked(&mut self) {
        self.sink_ready = false;
        self.keeps_up = false;
    }

    /// The receiver knows that nothing more comes.
    pub const fn on_shutdown(&mut self) {
        self.shut = true;
    }
}

/// Both directions of one flow.
#[derive(Debug, Clone)]
pub struct Relay {
    lanes: [Lane; 2],
    /// The direction that was served last; the other one comes first.
    served: Way,
}

impl Relay {
    /// A relay between two connected ends. `may_splice`: both are sockets.
    #[must_use]
    pub const fn new(may_splice: bool) -> Self {
        Self { lanes: [Lane::new(may_splice), Lane::new(may_splice)], served: Way::ToClient }
    }

    /// One direction.
    #[must_use]
    pub const fn lane(&self, way: Way) -> &Lane {
        &self.lanes[way as usize]
    }

    /// One direction, to tell what happened in it.
    pub const fn lane_mut(&mut self, way: Way) -> &mut Lane {
        &mut self.lanes[way as usize]
    }

    /// Whether both ends are sockets, when that is known later than the relay began.
    pub const fn set_may_splice(&mut self, may_splice: bool) {
        self.lanes[0].may_splice = may_splice;
        self.lanes[1].may_splice = may_splice;
    }

    /// Whether both ends are sockets.
    #[must_use]
    pub const fn may_splice(&self) -> bool {
        self.lanes[0].may_splice
    }

    /// Bytes that were early: held in `way` before the relay began.
    pub const fn hold(&mut self, way: Way, bytes: usize) {
        self.lane_mut(way).held += bytes;
    }

    /// What to do next, and in which direction: both get their turn. [`Step::Wait`] and [`Step::Finished`] are for the whole relay.
    pub const fn next(&mut self) -> (Way, Step) {
        let (first, second) = (self.served.back(), self.served);
        let step = self.lane(first).next();
        if !matches!(step, Step::Wait | Step::Finished) {
            self.served = first;
            return (first, step);
        }
        let step = self.lane(second).next();
        let is_over = matches!(step, Step::Finished) && !self.is_finished();
        (second, if is_over { Step::Wait } else { step })
    }

    /// One direction has ended, the other has not: the shell may be less patient with it.
    #[must_use]
    pub const fn is_half_closed(&self) -> bool {
        self.lanes[0].ended != self.lanes[1].ended
    }

    /// Whether both directions have ended.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.lanes[0].is_finished() && self.lanes[1].is_finished()
    }
}
