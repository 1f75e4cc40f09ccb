"""Files of access lists that tools rewrite: taken when whole and right, otherwise the version before stays and `status` says why."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from l4proxy.config.access_files import ListFiles, read_list
from l4proxy.daemon import access_watch
from l4proxy.daemon.access_watch import AccessWatch

pytestmark = pytest.mark.anyio


class World:
    """One watched file; a look is a turn of the clock."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "list.txt"
        self.clock_ns = 10**18
        self.write("10.0.0.1\n")
        self.told: list[ListFiles] = []
        self.subject = AccessWatch(self.told.append)
        self.subject.use({self.path: read_list(self.path)})

    @property
    def path(self) -> str:
        return str(self.file)

    def write(self, text: str) -> None:
        """Write in place; each version has a time of its own, however fast the test is."""
        self.file.write_text(text)
        self.clock_ns += 10**9
        os.utime(self.file, ns=(self.clock_ns, self.clock_ns))

    def rename(self, text: str) -> None:
        """Write beside it and rename, as careful tools do."""
        other = self.file.with_suffix(".new")
        other.write_text(text)
        other.rename(self.file)

    def told_prefixes(self) -> list[int]:
        return [len(files[self.path].contents) for files in self.told]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("how", [World.write, World.rename])
async def test_a_new_version_is_taken_once_it_was_left_alone(
    world: World, how: Callable[[World, str], None]
) -> None:
    await world.subject.look()
    how(world, "10.0.0.1\n10.0.0.2\n")
    await world.subject.look()
    assert world.told == []
    await world.subject.look()
    assert world.told_prefixes() == [2]
    await world.subject.look()
    assert world.told_prefixes() == [2]
    assert world.subject.problems() == {}


async def test_a_file_that_is_still_written_is_not_taken(world: World) -> None:
    """Half a list is a list as well: only time tells."""
    for count in range(1, 6):
        world.write("10.0.0.1\n" * (count + 1))
        await world.subject.look()
    assert world.told == []
    await world.subject.look()
    assert world.told_prefixes() == [6]


async def test_a_wrong_version_keeps_the_one_before_and_is_a_problem(world: World) -> None:
    world.write("10.0.0.1\nnonsense\nmore\n")
    for _ in range(3):
        await world.subject.look()
    assert world.told == []
    ((what, fix),) = world.subject.problems().items()
    assert what.startswith(f"access list {world.path}:2:1: is not an address or prefix")
    assert what.endswith("(and 1 more)")
    assert "the version before stays in force" in fix
    world.write("10.0.0.9\n10.0.0.8\n10.0.0.7\n")
    for _ in range(2):
        await world.subject.look()
    assert world.told_prefixes() == [3]
    assert world.subject.problems() == {}


async def test_a_file_that_is_gone_is_a_problem_until_it_is_back(world: World) -> None:
    before = world.file.read_text()
    signature = world.file.stat()
    aside = world.file.with_suffix(".aside")
    world.file.rename(aside)
    await world.subject.look()
    assert list(world.subject.problems()) == [
        f"access list {world.path} cannot be read: No such file or directory"
    ]
    aside.rename(world.file)
    await world.subject.look()
    assert world.subject.problems() == {}
    assert world.told == []
    assert (world.file.read_text(), world.file.stat().st_ino) == (before, signature.st_ino)


async def test_what_was_read_for_another_configuration_is_nobodys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write("10.0.0.1\n10.0.0.2\n")
    await world.subject.look()
    reading = access_watch.read_list

    def reload_meanwhile(path: str) -> object:
        world.subject.use({})
        return reading(path)

    monkeypatch.setattr(access_watch, "read_list", reload_meanwhile)
    await world.subject.look()
    assert world.told == []
