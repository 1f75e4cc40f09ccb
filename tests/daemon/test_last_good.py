"""The last good files are kept whole, and stand in for broken ones only while an engine serves with them."""

import contextlib
from pathlib import Path

import pytest

from l4proxy.daemon import last_good
from l4proxy.daemon.service import read_or_last_good
from l4proxy.errors import ConfigError
from tests.daemon.harness import options_for, running, write_app
from tests.daemon.support import until
from tests.fake_engine import fake_engine


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio"


def break_app(folder: Path) -> None:
    (folder / "apps" / "game.yaml").write_text("name: Broken!\n")


@pytest.mark.anyio
async def test_a_daemon_over_a_broken_file_goes_on_while_its_engine_serves(
    tmp_path: Path, free_port: int
) -> None:
    write_app(tmp_path / "apps", "game", free_port)
    options = options_for(tmp_path)
    async with fake_engine(tmp_path / "run" / "engine.sock") as engine:
        async with running(options) as first:
            await first.ready()
            await until((tmp_path / "state" / "last-good" / "apps" / "0000.yaml").exists)
        break_app(tmp_path)
        config, broken = read_or_last_good(options)
        assert isinstance(broken, ConfigError)
        assert [app.name for app in config.apps] == ["game"]
        async with running(options, config=config) as second:
            second.daemon.note_last_good(str(broken))
            await second.ready()
            status = second.backend.status()
            assert status["state"] == "degraded"
            assert "the last good configuration is in force: " in status["problems"][0]["what"]
            write_app(tmp_path / "apps", "game", free_port, "connect_timeout: 1s\n")
            await second.backend.reload()
            assert second.backend.status()["state"] == "ok"
        assert engine.snapshot is not None
        assert engine.snapshot["apps"][0]["connect_timeout_ms"] == 1000


def test_without_an_engine_a_broken_file_ends_the_start(tmp_path: Path, free_port: int) -> None:
    """Nobody is served yet: the person who starts it is there to correct it."""
    write_app(tmp_path / "apps", "game", free_port)
    options = options_for(tmp_path)
    last_good.keep(options.state_dir, last_good.files_of(options))
    break_app(tmp_path)
    with pytest.raises(ConfigError):
        read_or_last_good(options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    last_good.keep(tmp_path, {"apps/0000.yaml": b"1", "apps/0001.yaml": b"2", "fleet.yaml": b"3"})
    last_good.keep(tmp_path, {"apps/0000.yaml": b"4"})
    kept = contents(tmp_path)
    assert kept == {"last-good/apps/0000.yaml": b"4"}


def test_a_failure_keeps_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last_good.keep(tmp_path, {"apps/0000.yaml": b"1"})

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(last_good.os, "fsync", no_space)
    with contextlib.suppress(OSError):
        last_good.keep(tmp_path, {"apps/0000.yaml": b"2"})
    kept = contents(tmp_path)
    assert kept == {"last-good/apps/0000.yaml": b"1"}
