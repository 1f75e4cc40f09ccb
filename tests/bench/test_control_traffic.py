"""The model of what PoPs tell each other runs, and a small fleet stays far below the bound of a large one."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "bench" / "control_traffic.py"


def test_a_small_fleet_is_measured() -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--pops",
        "12",
        "--links",
        "2",
        "--seconds",
        "20",
        "--noise",
        "2000",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["links"] == 12 * 11 * 2
    assert set(found["steady_kbit_s_by_kind"]) == {"deltas", "digests"}, (
        "nothing was lost, so nothing is asked for"
    )
    assert 0 < found["steady"]["most_kbit_s"] < 150
    assert found["one_cut_known_everywhere_s"]["most"] < 1
    assert found["storm_known_everywhere_s"] < 10
    assert found["oldest_living_s"] < 40
    assert found["counters"]["unanswered"] == 0
