"""Derive l4proxy/lab/data/slices/*.csv, one slice a full run, from the raw file of the data set named in l4proxy/lab/data/README.md.

    python contrib/derive_slices.py PAIRS.csv l4proxy/lab/data/slices

A slice is named by the time at which its run began, so the order of names is that of time. RTT is the mean of a pair's pings.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path


def derive(pairs: Path, folder: Path) -> None:
    """Write one file a run into `folder`."""
    runs: dict[str, list[dict[str, str]]] = defaultdict(list)
    with pairs.open(newline="") as text:
        for row in csv.DictReader(text):
            runs[row["run"]].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    for run, rows in sorted(runs.items()):
        with (folder / f"{run.removeprefix('run-')}.csv").open("w", newline="") as text:
            out = csv.writer(text, lineterminator="\n")
            out.writerow(["from", "to", "rtt_ms", "jitter_ms", "loss_ratio"])
            for row in sorted(rows, key=lambda row: (row["src"], row["dst"])):
                loss_ratio = 1 - int(row["received"]) / int(row["sent"])
                jitter_ms = f"{float(row['jitter_ms']):.2f}" if row["jitter_ms"] else ""
                out.writerow([row["src"], row["dst"], row["avg_ms"], jitter_ms, f"{loss_ratio:.4f}"])


if __name__ == "__main__":
    derive(*(Path(argument) for argument in sys.argv[1:3]))
