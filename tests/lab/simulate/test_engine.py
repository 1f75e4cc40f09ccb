"""The model of an engine at the pace of docs/protocol.md section 6."""

from l4proxy.core.ids import Id32, LinkName, PopName
from l4proxy.core.snapshot import EngineOptions, HandleSpec, PathSpec, Snapshot
from l4proxy.lab.simulate.engine import HELLOS_A_SECOND, Engine
from l4proxy.lab.simulate.timeline import MS, S, Timeline

PEER = PopName("sin")
DIRECT = PathSpec(Id32(1), (LinkName("ams/a>sin/a"),), Id32(1), ())
DETOUR = PathSpec(Id32(2), (LinkName("ams/a>iad/a"), LinkName("iad/a>sin/a")), Id32(2), (7,))
ROUND_TRIP_NS = 100 * MS


class Bench:
    """One engine with two paths to one peer, and what passes."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.stopped: set[PathSpec] = set()
        self.engine = Engine(
            PopName("ams"),
            lambda spec: spec not in self.stopped,
            lambda _spec: ROUND_TRIP_NS,
            lambda wait_ns, what: self.timeline.at(self.timeline.now_ns + wait_ns, what),
        )
        self.snapshot()

    def snapshot(self) -> None:
        """Put the same two paths into force once more."""
        handles = (HandleSpec(1, PEER, "off", (DIRECT, DETOUR)),)
        pop = PopName("ams")
        snapshot = Snapshot(1, pop, Id32(1), "test", (), (), (), (), handles, EngineOptions())
        self.engine.handle_snapshot(self.timeline.now_ns, snapshot)

    def passing(self, spec: PathSpec, is_passing: bool) -> None:
        """Let a path pass or stop it."""
        (self.stopped.discard if is_passing else self.stopped.add)(spec)
        self.engine.handle_passing(self.timeline.now_ns)

    def after(self, wait_ns: int) -> PathSpec:
        """Let time pass; return what the handle takes then."""
        self.timeline.run_until(self.timeline.now_ns + wait_ns)
        return self.engine.active[PEER, "off"]


def test_a_dead_path_is_left_after_six_intervals_and_the_way_of_the_report() -> None:
    bench = Bench()
    bench.after(2 * S)
    bench.passing(DIRECT, False)
    assert bench.after(349 * MS) == DIRECT
    assert bench.after(1 * MS) == DETOUR


def test_a_gap_that_is_shorter_moves_nothing() -> None:
    bench = Bench()
    bench.passing(DIRECT, False)
    bench.after(200 * MS)
    bench.passing(DIRECT, True)
    assert bench.after(2 * S) == DIRECT


def test_a_path_is_alive_again_after_a_second_without_a_gap_and_later_each_time() -> None:
    bench = Bench()
    took = []
    for _ in range(4):
        bench.passing(DIRECT, False)
        bench.after(1 * S)
        bench.passing(DIRECT, True)
        back_ns = bench.timeline.now_ns
        while bench.after(100 * MS) != DIRECT:
            assert bench.timeline.now_ns - back_ns < 60 * S
        took.append(round((bench.timeline.now_ns - back_ns) / S, 1))
    assert took == [1.1, 2.1, 4.1, 8.1]


def test_a_path_that_loses_one_in_five_is_grey_and_left_for_one_that_does_not() -> None:
    bench = Bench()
    hellos = [number % 4 == 0 for number in range(HELLOS_A_SECOND)]
    for _ in range(5):
        bench.engine.handle_second(bench.timeline.now_ns, lambda spec: hellos if spec == DIRECT else None)
        bench.after(S)
    assert bench.after(0) == DETOUR
    for _ in range(15):
        bench.engine.handle_second(bench.timeline.now_ns, lambda _spec: None)
        bench.after(S)
    assert bench.after(0) == DIRECT


def test_six_lost_in_a_row_are_a_dead_path() -> None:
    bench = Bench()
    hellos = [number < 6 for number in range(HELLOS_A_SECOND)]
    bench.engine.handle_second(bench.timeline.now_ns, lambda spec: hellos if spec == DIRECT else None)
    assert bench.after(0) == DETOUR


def test_a_path_that_chance_alone_killed_comes_back_after_its_probation() -> None:
    """Probation grows longer than lost hellos are remembered."""
    bench = Bench()
    hellos = [number < 6 for number in range(HELLOS_A_SECOND)]
    took = []
    for _ in range(5):
        bench.engine.handle_second(bench.timeline.now_ns, lambda spec: hellos if spec == DIRECT else None)
        assert bench.after(0) == DETOUR
        seconds = 0
        while bench.after(S) != DIRECT:
            bench.engine.handle_second(bench.timeline.now_ns, lambda _spec: None)
            seconds += 1
            assert seconds < 100
        took.append(seconds)
    assert took == [1, 2, 4, 8, 16]


def test_with_all_paths_dead_the_one_that_passes_again_is_tried_before_it_is_alive() -> None:
    bench = Bench()
    bench.passing(DIRECT, False)
    bench.passing(DETOUR, False)
    bench.after(2 * S)
    bench.passing(DETOUR, True)
    bench.snapshot()
    assert bench.after(0) == DETOUR
