"""`l4proxy route replay`: what it prints and writes, and what it refuses. Needs no daemon."""

import json
from pathlib import Path

import pytest

from l4proxy.cli import exits
from l4proxy.cli.replaying import DEFINITIONS, PolicyName, TrafficClass
from l4proxy.core.replay_policies import POLICIES
from tests.cli.conftest import Run

RUNS = sorted((Path(__file__).parents[2] / "l4proxy/lab/data/slices").glob("*.csv"))
CALM = "from,to,rtt_ms\na,b,100\nb,a,100\na,c,30\nc,a,30\nb,c,40\nc,b,40\n"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three equal slices in which a and b reach each other faster through c."""
    for number in range(1, 4):
        (tmp_path / f"{number}.csv").write_text(CALM)
    return [str(tmp_path / f"{number}.csv") for number in range(1, 4)]


def test_json_has_the_figures_and_their_circumstances(run: Run, files: list[str]) -> None:
    code, out, err = run("route", "replay", *files, "--json", "--class", "rtt")
    answer = json.loads(out)
    assert (code, err) == (exits.OK, "")
    assert answer["slices"] == 3
    assert answer["pairs"] == 6
    assert answer["regret_ratio"] == 0
    assert answer["clairvoyant_regret_ratio"] == 0
    assert answer["direct_regret_ratio"] == pytest.approx(340 / 282 - 1)
    assert answer["changed_ratio"] == 0
    assert answer["worse_than_direct_ratio"] == 0
    assert answer["gain_captured_ratio"] == 1
    assert (answer["class"], answer["interval_s"], answer["policy"]) == ("rtt", 600, "ours")
    assert [one["slice"] for one in answer["each"]] == [2, 3]


def test_paths_are_written_for_every_pair_of_every_judged_slice(
    run: Run, files: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "paths.csv"
    assert run("route", "replay", *files, "--paths", str(out))[0] == exits.OK
    lines = out.read_text().splitlines()
    assert lines[0] == "slice,from,to,path"
    assert lines[1:4] == ["2,a,b,a>c>b", "2,a,c,a>c", "2,b,a,b>c>a"]
    assert len(lines) == 1 + 2 * 6


def test_hop_cost_transits_and_minimum_gain_are_heeded(run: Run, files: list[str]) -> None:
    def gain(*options: str) -> float:
        return float(
            json.loads(run("route", "replay", *files, "--json", *options)[1])["gain_captured_ratio"] or 0
        )

    assert gain() == 1
    assert gain("--min-gain", "30ms") == 0
    assert gain("--hop-ms", "30") == 0
    assert gain("--max-transits", "0") == 0


def test_people_get_tables(run: Run, files: list[str]) -> None:
    code, out, _ = run("route", "replay", *files)
    assert code == exits.OK
    assert "gain captured" in out
    assert "100.00 %" in out


def test_what_was_skipped_is_told_with_its_place(run: Run, files: list[str]) -> None:
    with Path(files[1]).open("a") as text:
        text.write("a,d,-3\nb,d,-3\n")
    code, out, err = run("route", "replay", *files, "--json")
    assert code == exits.OK
    assert f"skipped 2 rows: rtt_ms is not above 0 and at most 60000; first {files[1]}:8" in err
    assert json.loads(out)["skipped"][0]["rows"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["{0}"], exits.USAGE, "two slices or more"),
        (["{0}", "{1}", "--interval", "soon"], exits.USAGE, "is not a duration"),
        (["{0}", "{1}", "--interval", "0s"], exits.USAGE, "slices need some time between them"),
        (["{0}", "{1}", "--min-gain", "5"], exits.USAGE, "is not a duration"),
        (["{0}", "{1}", "--policy", "best"], exits.USAGE, "best"),
        (["{0}", "{1}", "--max-transits", "4"], exits.USAGE, "4"),
        (["{0}", "/nowhere/2.csv"], exits.FAILED, "/nowhere/2.csv"),
    ],
)
def test_wrong_usage_is_refused(
    run: Run, files: list[str], arguments: list[str], code: int, reason: str
) -> None:
    found, _, err = run("route", "replay", *(argument.format(*files) for argument in arguments))
    assert found == code
    assert reason in err


def test_a_wrong_file_is_named_with_its_line(run: Run, files: list[str]) -> None:
    with Path(files[2]).open("a") as text:
        text.write("a,b,100\n")
    code, _, err = run("route", "replay", *files)
    assert code == exits.CONFIG_INVALID
    assert f"{files[2]}:8" in err
    assert "a to b stands here twice, first in line 2" in err


def test_slices_that_have_nothing_in_common_fail_and_say_so(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text("from,to,rtt_ms\na,b,1\n")
    second.write_text("from,to,rtt_ms\nc,d,1\n")
    code, out, err = run("route", "replay", str(first), str(second), "--json")
    assert code == exits.FAILED
    assert json.loads(out)["regret_ratio"] is None
    assert "nothing could be judged" in err


def test_help_defines_every_figure(run: Run) -> None:
    code, out, _ = run("route", "replay", "--help")
    assert code == exits.OK
    for name in (
        "regret_ratio",
        "clairvoyant_regret_ratio",
        "changed_ratio",
        "worse_than_direct_ratio",
        "gain_captured_ratio",
    ):
        assert name in DEFINITIONS
        assert name in out


def test_names_of_policies_are_those_of_the_core() -> None:
    assert [name.value for name in PolicyName] == list(POLICIES)
    assert {name.value for name in TrafficClass} == {"bulk", "game", "voip", "rtt"}


def test_on_the_recorded_runs_we_regret_less_than_the_simple_policies_and_change_little(run: Run) -> None:
    """The bars of the results page, on the runs that the package ships: regret and changes without need."""
    found = {}
    for policy in ("ours", "last", "ewma-hysteresis", "direct"):
        out = run("route", "replay", *map(str, RUNS), "--policy", policy, "--max-transits", "1", "--json")[1]
        found[policy] = json.loads(out)
    ours = found.pop("ours")
    assert len(RUNS) == 4
    assert ours["regret_ratio"] <= 0.012
    assert ours["changed_without_need_ratio"] <= 0.01
    assert ours["worse_than_direct_ratio"] <= 0.01
    assert all(other["regret_ratio"] > ours["regret_ratio"] for other in found.values())
