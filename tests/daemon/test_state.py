"""State is written whole or not at all, and a disk that refuses it stops nothing."""

from pathlib import Path

import pytest

from l4proxy.daemon import state
from l4proxy.daemon.problems import Problems
from l4proxy.daemon.state import StateDirectory, StateKeeper


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    assert StateDirectory(tmp_path / "a" / "b").save("toggles", b"\x01")
    again = StateDirectory(tmp_path / "a" / "b")
    assert again.load("toggles") == b"\x01"
    assert again.load("nothing") is None
    assert again.problem is None
    assert (tmp_path / "a" / "b" / "toggles").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_a_problem_until_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = StateDirectory(tmp_path)
    directory.save("toggles", b"old")

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.os, "fsync", no_space)
    assert not directory.save("toggles", b"new")
    assert directory.problem == f"cannot write {tmp_path}/toggles: No space left on device"
    assert directory.has_unsaved
    assert (tmp_path / "toggles").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["toggles"]  # no temporary file is left
    monkeypatch.undo()
    assert directory.retry()
    assert (directory.problem, directory.has_unsaved) == (None, False)
    assert directory.load("toggles") == b"new"


def test_a_place_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = StateDirectory(tmp_path / "file" / "state")
    assert not directory.save("toggles", b"x")
    assert directory.problem is not None
    assert "cannot write" in directory.problem
    assert directory.load("toggles") is None


def test_a_monstrous_file_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_FILE_BYTES", 3)
    (tmp_path / "toggles").write_bytes(b"1234")
    directory = StateDirectory(tmp_path)
    assert directory.load("toggles") is None
    assert directory.problem is not None


def test_problems_keep_their_age() -> None:
    problems = Problems()
    problems.set("state", "cannot write", "free space", now_ns=1_000_000_000)
    problems.set("engine", "gone", "", now_ns=2_000_000_000)
    problems.set("state", "cannot write at all", "free space", now_ns=3_000_000_000)
    assert problems.to_json(4_000_000_000) == [
        {"what": "cannot write at all", "since_s": 3.0, "fix": "free space"},
        {"what": "gone", "since_s": 2.0, "fix": ""},
    ]
    problems.set("state", None, "", 5_000_000_000)
    problems.clear("engine")
    assert not problems


def test_the_key_of_hashed_clients_is_made_once_and_kept(tmp_path: Path) -> None:
    first = StateKeeper(StateDirectory(tmp_path / "state")).client_key
    assert len(first) == 32
    assert StateKeeper(StateDirectory(tmp_path / "state")).client_key == first
    assert (tmp_path / "state" / "client.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "state" / "client.key").write_bytes(b"cut short")
    assert StateKeeper(StateDirectory(tmp_path / "state")).client_key not in (first, b"cut short")
    assert StateKeeper(StateDirectory(tmp_path / "other")).client_key != first
