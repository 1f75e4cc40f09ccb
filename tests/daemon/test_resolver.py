"""The loop around the resolution, in trio's jumping time: what is asked when, what is told, and what a broken lookup does."""

from collections.abc import Callable
from itertools import pairwise

import anyio
import pytest
import trio.testing

from l4proxy.core.resolution import Failed, Found, Nothing, OriginName, Outcome, Question, Target
from l4proxy.daemon.resolver import Resolver, Targets

GAME = OriginName("name", "mc.example.net", 25565)
ONE, OTHER = (Target("192.0.2.1", 25565),), (Target("192.0.2.2", 25565),)


@pytest.fixture
def anyio_backend() -> object:
    """Trio with a clock that jumps: hours pass at once."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class World:
    """A fake DNS: `say` is asked, at which time is written down."""

    def __init__(self, say: Callable[[Question], Outcome]) -> None:
        self.say = say
        self.asked: list[tuple[float, str]] = []
        self.told: list[Targets] = []
        self.began = anyio.current_time()
        self.subject = Resolver(self.lookup, self.told.append, seed=1)

    async def lookup(self, question: Question) -> Outcome:
        """Answer after a tenth of a second."""
        self.asked.append((anyio.current_time() - self.began, question.kind))
        await anyio.sleep(0.1)
        return self.say(question)


def only_v4(address: str, ttl: float) -> Callable[[Question], Outcome]:
    """Answer with one IPv4 address."""
    return lambda q: Found(ttl, (address,)) if q.kind == "A" else Nothing(ttl, "no AAAA records")


pytestmark = pytest.mark.anyio


async def test_a_change_is_told_once_and_answers_that_are_equal_are_not() -> None:
    world = World(only_v4("192.0.2.1", 30))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.subject.run)
        world.subject.set_names([GAME])
        await anyio.sleep(200)
        world.say = only_v4("192.0.2.2", 30)
        await anyio.sleep(60)
        tasks.cancel_scope.cancel()
    assert world.told == [{GAME: ()}, {GAME: ONE}, {GAME: OTHER}]
    times = [at for at, kind in world.asked if kind == "A"]
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert all(30 <= wait <= 33.2 for wait in waits), waits
    assert 7 <= len(times) <= 9


async def test_a_lookup_that_breaks_is_a_failure_and_asked_again() -> None:
    def broken(_: Question) -> Outcome:
        raise RuntimeError("boom")

    world = World(only_v4("192.0.2.1", 10))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.subject.run)
        world.subject.set_names([GAME])
        await anyio.sleep(5)
        world.say = broken
        await anyio.sleep(100)
        assert world.subject.names.targets(GAME) == ONE
        assert "internal error: RuntimeError" in (world.subject.names.trouble(GAME) or "")
        world.say = only_v4("192.0.2.2", 10)
        await anyio.sleep(70)
        tasks.cancel_scope.cancel()
    assert world.told[-1] == {GAME: OTHER}


async def test_settling_waits_for_the_first_answers_and_not_for_ever() -> None:
    world = World(only_v4("192.0.2.1", 30))
    async with anyio.create_task_group() as tasks:
        assert await world.subject.settle(1.0), "no names: nothing to wait for"
        tasks.start_soon(world.subject.run)
        world.subject.set_names([GAME])
        assert await world.subject.settle(3.0)
        assert world.told[-1] == {GAME: ONE}
        world.say = lambda _: Failed("timed out")
        other = OriginName("name", "other.example.net")
        world.subject.set_names([GAME, other])
        assert await world.subject.settle(3.0), "a failure settles it: waiting longer would not help"
        tasks.cancel_scope.cancel()
    world.subject.set_names([GAME, other, OriginName("name", "third.example.net")])
    assert not await world.subject.settle(1.0), "nobody asks any more"


async def test_a_name_that_came_back_is_asked_for_at_once() -> None:
    world = World(only_v4("192.0.2.1", 3000))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.subject.run)
        world.subject.set_names([GAME])
        await anyio.sleep(10)
        world.subject.set_names([])
        await anyio.sleep(10)
        world.subject.set_names([GAME])
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert [round(at) for at, kind in world.asked if kind == "A"] == [0, 20]
    assert world.told == [{GAME: ()}, {GAME: ONE}, {}, {GAME: ()}, {GAME: ONE}]
