"""The recorder: segments of a bounded folder, another when links change, and a disk that takes nothing."""

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from l4proxy.config.histories import HistorySlices, read_history
from l4proxy.daemon.recorder import SEGMENTS, Recorder
from tests.core.fleet import World, make_app, make_fleet, rtts

pytestmark = pytest.mark.anyio
S = 1_000_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Time:
    """A clock that is set."""

    now_s = 1_700_000_000

    def __call__(self) -> int:
        return self.now_s * S


def controller(names: str = "ams iad sin") -> Any:
    world = World(make_fleet(names), (make_app(),), rtts("ams-iad 80, ams-sin 170, iad-sin 220"))
    return world.run(20).controllers["ams"]


def read_nothing(folder: Path) -> bool:
    return not list(folder.iterdir())


async def test_moments_go_into_one_segment_that_replay_reads(tmp_path: Path) -> None:
    clock = Time()
    recorder = Recorder(tmp_path / "history", 1 << 20, clock)
    known = controller()
    for _ in range(21):
        await recorder.record(known)
        clock.now_s += 60
    (file,) = (tmp_path / "history").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    state = recorder.state()
    assert (state.moments_written, state.moments_lost, state.segments, state.bytes) == (
        21,
        0,
        1,
        file.stat().st_size,
    )
    slices = HistorySlices.of(read_history([file.parent]), 600)
    assert (len(slices), slices.pops) == (3, ("ams", "iad", "sin"))
    (first, *_) = slices.slices()
    assert first.rtt_ms[0, 1] == pytest.approx(80, abs=1)


async def test_other_links_begin_another_segment_and_the_oldest_goes_when_all_are_too_long(
    tmp_path: Path,
) -> None:
    clock, known = Time(), controller()
    limit = 8_000
    recorder = Recorder(tmp_path, limit, clock)
    for number in range(400):
        known.plan.table.rtt_ms[:] += number % 7
        await recorder.record(known)
        clock.now_s += 60
    state = recorder.state()
    assert state.segments_pruned > 0
    assert state.bytes <= limit + limit // SEGMENTS
    kept = read_history([tmp_path])
    assert kept.segments[-1].times_s[-1] == clock.now_s - 60, "the newest is there"
    assert kept.segments[0].times_s[0] > 1_700_000_000, "the oldest is not"
    before = recorder.state().segments
    await recorder.record(controller("ams iad"))
    assert recorder.state().segments in (before, before + 1)
    assert read_history([tmp_path]).newest[0].pops == ("ams", "iad")


async def test_a_disk_that_takes_nothing_costs_moments_and_is_said(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("a file in the place of the folder")
    recorder = Recorder(tmp_path / "history", 1 << 20, Time())
    await recorder.record(controller())
    state = recorder.state()
    assert (state.moments_written, state.moments_lost) == (0, 1)
    assert "cannot record links in" in str(recorder.problem)
    (tmp_path / "history").unlink()
    await recorder.record(controller())
    assert recorder.problem is None
    assert recorder.state().moments_written == 1


async def test_a_disk_that_was_full_for_a_while_leaves_a_history_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, known = Time(), controller()
    recorder = Recorder(tmp_path, 1 << 20, clock)
    opened, full = Path.open, iter((True, True, True, False, False, True, False))

    def refuse(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if mode == "ab" and next(full):
            raise OSError(28, "No space left on device")
        return opened(self, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", refuse)
    for _ in range(7):
        await recorder.record(known)
        clock.now_s += 60
    assert (recorder.state().moments_written, recorder.state().moments_lost) == (3, 4)
    assert sum(len(segment.times_s) for segment in read_history([tmp_path]).segments) == 3
    assert recorder.state().segments == 2, "what did not get as far as a moment is gone"


async def test_nothing_is_recorded_with_no_room_or_no_table(tmp_path: Path) -> None:
    await Recorder(tmp_path / "a", 0, Time()).record(controller())
    await Recorder(tmp_path / "b", 1 << 20, Time()).record(SimpleNamespace(plan=None))  # type: ignore[arg-type]
    assert read_nothing(tmp_path)


async def test_it_records_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, slept = controller(), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 3:
            await anyio.sleep_forever()

    monkeypatch.setattr(
        "l4proxy.daemon.recorder.anyio", SimpleNamespace(sleep=sleep, to_thread=anyio.to_thread)
    )
    recorder = Recorder(tmp_path, 1 << 20, Time())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run, lambda: known)
        while len(slept) < 4:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert slept == [60, 60, 60, 60]
    assert recorder.state().moments_written == 3
