"""What a simulation shows of a fleet, the command, and that the same seed gives the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from l4proxy.core.estimate import light_rtt_ms
from l4proxy.errors import ConfigError
from l4proxy.lab.simulate import faultfile, report
from l4proxy.lab.simulate.faults import Fault, links_between
from l4proxy.lab.simulate.running import Options, Simulation, simulate
from l4proxy.lab.simulate.scene import make_scene
from l4proxy.lab.simulate.timeline import START_NS, S, Timeline
from tests.lab.simulate.runs import WORLD, with_fault

EXAMPLE = Path(__file__).parents[3] / "configs" / "simulate" / "faults.yaml"


def command(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Run `l4proxy lab simulate` in a process of its own."""
    code = "from l4proxy.cli import main; main()"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-c", code, "lab", "simulate", *arguments],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("pops", ["4", "20"])
def test_the_same_seed_gives_the_same_bytes_in_another_process(pops: str) -> None:
    options = ("--pops", pops, "--hours", "0.02" if pops == "4" else "2", "--seed", "7", "--json")
    first, second = command(*options, hash_seed="1"), command(*options, hash_seed="2")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == second.stdout
    assert json.loads(first.stdout)["ok"]


def test_another_seed_is_another_fleet() -> None:
    assert make_scene(WORLD, 5, 1, 1).usual != make_scene(WORLD, 5, 1, 2).usual


def test_a_cut_pair_is_repaired_by_hellos_before_probes_know() -> None:
    fleet = make_scene(WORLD, 4, 2, 3).fleet
    one, other, *_ = fleet.pops
    cut = Fault("cut", 5.0, 20.0, links_between(fleet, one, other))
    made = Simulation(make_scene(WORLD, 4, 2, 3), 40.0, 3, (cut,))
    assert made.run() is None
    repair = made.figures()["repair_s"]
    assert 0.3 <= repair["max"] < 1.0


def test_a_one_way_cut_interrupts_nothing_in_the_other_direction() -> None:
    made = with_fault("cut-one-way", 4)
    assert made.violation is None
    assert len(made.flows.tally.repairs_ns) <= 1


def test_fleets_beyond_the_sites_stand_beside_them_and_nothing_is_faster_than_light() -> None:
    scene = make_scene(WORLD, 60, 2, 1)
    assert len(scene.fleet.pops) == 60
    for name, link in scene.fleet.links.items():
        here, there = scene.fleet.pops[link.from_pop].location, scene.fleet.pops[link.to_pop].location
        assert here is not None
        assert there is not None
        rtt_ms = scene.usual[name].delay_ms + scene.usual[link.reverse_name].delay_ms
        assert rtt_ms >= light_rtt_ms(here, there)


def test_a_large_fleet_says_that_it_was_simulated_otherwise() -> None:
    document = simulate(Options(pops=20, hours=1.0, seed=2, links=1))
    assert document["ok"]
    assert document["kind"].startswith("one view")
    assert document["worse_than_direct_ratio"] <= 0.005


def test_a_violation_names_invariant_pair_time_and_seed() -> None:
    document = simulate(Options(pops=3, hours=0.005, seed=5, links=1))
    what = {"invariant": "no_loop", "at_s": 1.5, "source": "ams", "end": "fra", "what": "a loop", "seed": 5}
    rows = dict(report.rows(document | {"violation": what, "ok": False}))
    assert rows["BROKEN"] == "no_loop at 1.500 s, ams to fra: a loop (seed 5)"


def test_the_example_of_faults_fits_the_fleet_that_it_names() -> None:
    fleet = make_scene(WORLD, 6, 2, 1).fleet
    found = faultfile.load(EXAMPLE, fleet, 3_600.0)
    assert [fault.kind for fault in found] == [
        "cut", "grey-5", "pop-kill", "transit-cut", "partition", "restart",
    ]  # fmt: skip
    assert found[0].links == links_between(fleet, *sorted({"ams", "sao"}))  # type: ignore[arg-type]
    assert found[2].pops == ("ord",)
    assert found[-1].for_s == 600.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- {kind: cutt, at: 1m, where: ams}", "f.yaml:2:12: faults[0].kind: is no kind of fault; did you mean cut?"),
        ("- {kind: cut, at: 1x, where: ams}", "f.yaml:2:21: faults[0].at: is not a duration"),
        ("- {kind: cut, at: 1m}", "f.yaml:2:5: faults[0]: `where` is missing"),
        ("- {kind: cut, at: 1m, where: amz}", "no PoP, pair, transit or link 'amz' here; did you mean ams?"),
        ("- {kind: pop-kill, at: 1m, where: a}", "no PoP 'a' here"),
        ("- {kind: cut, at: 1m, where: ams, whre: x}", "unknown field; did you mean where?"),
        ("- cut", "a fault is a mapping"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_of_faults_are_named_with_their_place(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(f"faults:\n  {text}\n")
    with pytest.raises(ConfigError) as caught:
        faultfile.load(file, make_scene(WORLD, 6, 2, 1).fleet, 60.0)
    assert says in str(caught.value)


def test_a_file_that_is_no_list_of_faults_or_has_too_many_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    fleet = make_scene(WORLD, 3, 1, 1).fleet
    for text, says in (
        ("[]\n", "is a list under `faults`"),
        ("faults: []\nmore: 1\n", "unknown field"),
        ("faults:\n" + "  - {}\n" * (faultfile.MAX_FAULTS + 1), f"at most {faultfile.MAX_FAULTS}"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=says):
            faultfile.load(file, fleet, 60.0)


def test_a_wrong_file_is_exit_code_3(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("faults:\n  - {kind: cut, at: 1m, where: nowhere}\n")
    ended = command("--pops", "3", "--faults", str(file))
    assert ended.returncode == 3
    assert "f.yaml:2:32" in ended.stderr


def test_a_timeline_does_things_in_order_and_those_of_one_moment_as_they_were_asked_for() -> None:
    timeline, done = Timeline(), []
    for name, at_s in (("b", 2), ("a", 1), ("c", 2), ("d", 9)):
        timeline.at(START_NS + at_s * S, lambda name=name: done.append(name))
    timeline.run_until(START_NS + 5 * S)
    assert (done, timeline.now_ns) == (["a", "b", "c"], START_NS + 5 * S)
    assert timeline.next_ns == START_NS + 9 * S
