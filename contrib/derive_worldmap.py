"""Derive l4proxy/lab/data/*.csv from the raw files of the data set named in l4proxy/lab/data/README.md.

    python contrib/derive_worldmap.py PAIRS.csv REGIONS.json l4proxy/lab/data

A pair is kept if every run measured it. RTT and jitter are medians over the runs; loss is all pings lost of all pings sent.
"""

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path


def derive(pairs: Path, regions: Path, folder: Path) -> None:
    """Write `pairs.csv` and `sites.csv` into `folder`."""
    runs: set[str] = set()
    measured: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    with pairs.open(newline="") as text:
        for row in csv.DictReader(text):
            runs.add(row["run"])
            if row["avg_ms"]:
                measured[row["src"], row["dst"]].append(row)
    kept = {pair: rows for pair, rows in sorted(measured.items()) if len(rows) == len(runs)}
    with (folder / "pairs.csv").open("w", newline="") as text:
        out = csv.writer(text, lineterminator="\n")
        out.writerow(["from", "to", "rtt_ms", "jitter_ms", "loss_ratio"])
        for (source, destination), rows in kept.items():
            sent = sum(int(row["sent"]) for row in rows)
            received = sum(int(row["received"]) for row in rows)
            rtt_ms = statistics.median(float(row["avg_ms"]) for row in rows)
            jitter_ms = statistics.median(float(row["jitter_ms"]) for row in rows)
            out.writerow(
                [source, destination, f"{rtt_ms:.1f}", f"{jitter_ms:.2f}", f"{1 - received / sent:.4f}"]
            )
    sites = {site for pair in kept for site in pair}
    with (folder / "sites.csv").open("w", newline="") as text:
        out = csv.writer(text, lineterminator="\n")
        out.writerow(["site", "city", "latitude", "longitude"])
        for region in sorted(json.loads(regions.read_text())["regions"], key=lambda region: region["code"]):
            if region["code"] in sites:
                out.writerow([region["code"], region["city"], region["lat"], region["lon"]])


if __name__ == "__main__":
    derive(*(Path(argument) for argument in sys.argv[1:4]))
