//! Conversations: what the shell tells, and what the relay wants next. Each row is one turn of the loop.

use super::*;
use proptest::prelude::*;

const READ: Step = Step::Read { limit: CAUTIOUS_READ, mode: Mode::Copy };
const READ_MORE: Step = Step::Read { limit: COPY_BUFFER, mode: Mode::Copy };
const FILL: Step = Step::Read { limit: SPLICE_READ, mode: Mode::Splice };
const WRITE: Step = Step::Write(Mode::Copy);
const DRAIN: Step = Step::Write(Mode::Splice);

/// What the shell tells about one direction.
#[derive(Debug, Clone, Copy)]
enum Told {
    Ready,
    ReadyAndHungUp,
    SinkReady,
    SinkAbsent,
    /// Bytes, and whether the read was short.
    Read(usize, bool),
    ReadBlocked,
    End,
    Pipe,
    NoPipe,
    PipeReturned,
    Written(usize),
    WriteBlocked,
    Shut,
}

fn tell(lane: &mut Lane, told: Told) {
    match told {
        Told::Ready => lane.on_source_ready(false),
        Told::ReadyAndHungUp => lane.on_source_ready(true),
        Told::SinkReady => lane.on_sink_ready(),
        Told::SinkAbsent => lane.on_sink_absent(),
        Told::Read(bytes, exhausted) => lane.on_read(bytes, exhausted),
        Told::ReadBlocked => lane.on_read_blocked(),
        Told::End => lane.on_read_end(),
        Told::Pipe => lane.on_pipe(),
        Told::NoPipe => lane.on_no_pipe(),
        Told::PipeReturned => lane.on_pipe_returned(),
        Told::Written(bytes) => lane.on_written(bytes),
        Told::WriteBlocked => lane.on_write_blocked(),
        Told::Shut => lane.on_shutdown(),
    }
}

/// Plays one direction: after each thing told, the step that must follow.
fn play(may_splice: bool, rows: &[(Told, Step)]) {
    let mut lane = Lane::new(may_splice);
    assert_eq!(lane.next(), READ, "a relay begins by reading");
    for (row, &(told, expected)) in rows.iter().enumerate() {
        tell(&mut lane, told);
        assert_eq!(lane.next(), expected, "row {row}: after {told:?}");
    }
}

#[test]
fn a_question_and_an_answer_cost_one_read_each() {
    play(
        true,
        &[
            (Told::Read(128, true), WRITE),
            (Told::Written(128), Step::Wait),
            (Told::Ready, READ_MORE),
            (Told::Read(64, true), WRITE),
            (Told::Written(64), Step::Wait),
        ],
    );
}

#[test]
fn a_slow_receiver_stops_the_reading_and_then_gets_smaller_reads() {
    play(
        false,
        &[
            (Told::Read(65_536, false), WRITE),
            (Told::Written(65_536), READ_MORE),
            (Told::Read(200_000, false), WRITE),
            (Told::Written(50_000), Step::Wait),
            (Told::Ready, Step::Wait),
            (Told::SinkReady, WRITE),
            (Told::Written(150_000), READ_MORE),
            (Told::Read(1, false), WRITE),
            (Told::WriteBlocked, Step::Wait),
            (Told::SinkReady, WRITE),
            (Told::Written(1), READ_MORE),
        ],
    );
}

#[test]
fn the_end_is_said_on_after_the_last_byte() {
    play(
        true,
        &[
            (Told::Read(10, false), WRITE),
            (Told::WriteBlocked, Step::Wait),
            (Told::End, Step::Wait),
            (Told::SinkReady, WRITE),
            (Told::Written(10), Step::ShutdownWrite),
            (Told::Shut, Step::Finished),
        ],
    );
}

#[test]
fn an_end_that_came_with_the_last_bytes_is_not_waited_for() {
    // Edge-triggered: nobody tells again that the sender has closed.
    play(
        true,
        &[
            (Told::ReadyAndHungUp, READ),
            (Told::Read(10, true), WRITE),
            (Told::Written(10), READ_MORE),
            (Told::End, Step::ShutdownWrite),
            (Told::Shut, Step::Finished),
        ],
    );
}

#[test]
fn a_bulk_transfer_goes_through_a_pipe_and_gives_it_back_when_it_pauses() {
    play(
        true,
        &[
            (Told::Read(65_536, false), WRITE),
            (Told::Written(65_536), READ_MORE),
            (Told::Read(100_000, false), WRITE),
            (Told::Written(100_000), FILL),
            (Told::Pipe, FILL),
            (Told::Read(23_000, false), DRAIN),
            (Told::Written(20_000), DRAIN),
            (Told::Written(3_000), FILL),
            (Told::Read(65_536, false), DRAIN),
            (Told::WriteBlocked, Step::Wait),
            (Told::Ready, Step::Wait),
            (Told::SinkReady, DRAIN),
            (Told::Written(65_536), FILL),
            (Told::ReadBlocked, Step::ReturnPipe),
            (Told::PipeReturned, Step::Wait),
            (Told::Ready, FILL),
        ],
    );
}

#[test]
fn the_change_to_a_pipe_waits_until_copied_bytes_have_left() {
    play(
        true,
        &[
            (Told::Read(65_536, false), WRITE),
            (Told::Written(65_536), READ_MORE),
            (Told::Read(65_536, false), WRITE),
            (Told::Written(1), Step::Wait),
            (Told::SinkReady, WRITE),
            (Told::Written(65_535), FILL),
        ],
    );
}

#[test]
fn without_a_pipe_copying_goes_on_and_asks_again_later() {
    play(
        true,
        &[
            (Told::Read(40_000, false), WRITE),
            (Told::Written(40_000), READ_MORE),
            (Told::Read(40_000, false), WRITE),
            (Told::Written(40_000), FILL),
            (Told::NoPipe, READ_MORE),
            (Told::Read(40_000, false), WRITE),
            (Told::Written(40_000), READ_MORE),
            (Told::Read(40_000, false), WRITE),
            (Told::Written(40_000), FILL),
        ],
    );
}

#[test]
fn small_reads_end_the_bulk_transfer() {
    let mut lane = Lane::new(true);
    for _ in 0..2 {
        lane.on_read(LARGE_READ, false);
        lane.on_written(LARGE_READ);
    }
    lane.on_pipe();
    for _ in 0..SMALL_READS {
        assert_eq!(lane.next(), FILL);
        lane.on_read(100, false);
        assert_eq!(lane.next(), DRAIN);
        lane.on_written(100);
    }
    assert_eq!(lane.next(), Step::ReturnPipe);
    lane.on_pipe_returned();
    assert_eq!(lane.next(), READ_MORE);
    lane.on_read(100, true);
    assert_eq!(lane.next(), WRITE);
}

#[test]
fn the_end_with_bytes_in_the_pipe_truncates_nothing() {
    play(
        true,
        &[
            (Told::Read(40_000, false), WRITE),
            (Told::Written(40_000), READ_MORE),
            (Told::Read(40_000, false), WRITE),
            (Told::Written(40_000), FILL),
            (Told::Pipe, FILL),
            (Told::Read(10_000, false), DRAIN),
            (Told::WriteBlocked, Step::Wait),
            (Told::ReadyAndHungUp, Step::Wait),
            (Told::SinkReady, DRAIN),
            (Told::Written(10_000), FILL),
            (Told::End, Step::ReturnPipe),
            (Told::PipeReturned, Step::ShutdownWrite),
            (Told::Shut, Step::Finished),
        ],
    );
}

#[test]
fn only_sockets_are_spliced() {
    let mut lane = Lane::new(false);
    for _ in 0..10 {
        lane.on_read(COPY_BUFFER, false);
        lane.on_written(COPY_BUFFER);
        assert_eq!(lane.next(), READ_MORE);
    }
}

#[test]
fn nothing_is_read_for_a_receiver_that_is_not_there_yet() {
    play(true, &[(Told::SinkAbsent, Step::Wait), (Told::Ready, Step::Wait), (Told::SinkReady, READ)]);
}

#[test]
fn one_direction_may_end_long_before_the_other() {
    let mut relay = Relay::new(true);
    relay.lane_mut(Way::ToOrigin).on_read_end();
    assert!(relay.is_half_closed());
    assert_eq!(relay.next(), (Way::ToOrigin, Step::ShutdownWrite));
    relay.lane_mut(Way::ToOrigin).on_shutdown();
    assert_eq!(relay.next(), (Way::ToClient, READ));
    relay.lane_mut(Way::ToClient).on_read(5, true);
    assert_eq!(relay.next(), (Way::ToClient, WRITE));
    relay.lane_mut(Way::ToClient).on_written(5);
    assert_eq!(relay.next().1, Step::Wait);
    relay.lane_mut(Way::ToClient).on_read_end();
    assert!(!relay.is_half_closed());
    assert_eq!(relay.next(), (Way::ToClient, Step::ShutdownWrite));
    relay.lane_mut(Way::ToClient).on_shutdown();
    assert_eq!(relay.next().1, Step::Finished);
}

#[test]
fn two_busy_directions_take_turns() {
    let mut relay = Relay::new(false);
    let mut steps = Vec::new();
    for _ in 0..8 {
        let (way, step) = relay.next();
        let is_read = matches!(step, Step::Read { .. });
        if is_read {
            relay.lane_mut(way).on_read(1_000, false);
        } else {
            relay.lane_mut(way).on_written(1_000);
        }
        steps.push((way, is_read));
    }
    let round =
        [(Way::ToOrigin, true), (Way::ToClient, true), (Way::ToOrigin, false), (Way::ToClient, false)];
    assert_eq!(steps, [round, round].concat());
}

#[test]
fn early_bytes_are_written_before_anything_is_read() {
    let mut relay = Relay::new(true);
    relay.hold(Way::ToOrigin, 300);
    assert_eq!(relay.next(), (Way::ToOrigin, WRITE));
    relay.lane_mut(Way::ToOrigin).on_written(300);
    assert_eq!(relay.next().0, Way::ToClient);
}

/// A sender with `left` bytes and a receiver with limited room, driven as a shell drives them.
#[derive(Debug)]
struct World {
    left: usize,
    arrived: usize,
    room: usize,
    told_end: bool,
}

proptest! {
    /// Whatever the sizes and pauses: every byte arrives, the end comes after the last one, held bytes stay bounded, and it ends.
    #[test]
    fn every_byte_arrives_before_the_end(
        total in 0..3_000_000usize,
        may_splice: bool,
        pipes: bool,
        script in proptest::collection::vec((1..300_000usize, 0..200_000usize), 1..60),
    ) {
        let mut lane = Lane::new(may_splice);
        let mut world = World { left: total, arrived: 0, room: 0, told_end: false };
        let mut has_pipe = false;
        for turn in 0..20_000usize {
            let (available, room) = script[turn % script.len()];
            world.room = room + 1;
            lane.on_source_ready(available >= world.left);
            lane.on_sink_ready();
            let mut readable = available.min(world.left);
            for _ in 0..200 {
                prop_assert!(lane.held() <= COPY_BUFFER.max(SPLICE_READ));
                match lane.next() {
                    Step::Read { mode: Mode::Splice, .. } if !has_pipe && !pipes => lane.on_no_pipe(),
                    Step::Read { limit, mode } => {
                        if mode == Mode::Splice && !has_pipe {
                            has_pipe = true;
                            lane.on_pipe();
                        }
                        prop_assert_eq!(lane.held(), 0);
                        let bytes = limit.min(readable);
                        if bytes > 0 {
                            readable -= bytes;
                            world.left -= bytes;
                            lane.on_read(bytes, bytes < limit);
                        } else if world.left == 0 {
                            lane.on_read_end();
                        } else {
                            lane.on_read_blocked();
                        }
                    }
                    Step::Write(mode) => {
                        prop_assert_eq!(mode == Mode::Splice, has_pipe);
                        let bytes = lane.held().min(world.room);
                        if bytes == 0 {
                            lane.on_write_blocked();
                        } else {
                            world.room -= bytes;
                            world.arrived += bytes;
                            lane.on_written(bytes);
                        }
                    }
                    Step::ReturnPipe => {
                        prop_assert_eq!(lane.held(), 0);
                        has_pipe = false;
                        lane.on_pipe_returned();
                    }
                    Step::ShutdownWrite => {
                        prop_assert_eq!(world.arrived, total);
                        world.told_end = true;
                        lane.on_shutdown();
                    }
                    Step::Wait => break,
                    Step::Finished => {
                        prop_assert!(world.told_end && !has_pipe);
                        return Ok(());
                    }
                }
            }
        }
        prop_assert!(false, "it never ends: {lane:?} {world:?}");
    }
}
