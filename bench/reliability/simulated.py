"""Every kind of fault, a hundred seeds of each, in simulated fleets: no invariant breaks. Virtual time; no sockets.

Fleets have three to five PoPs and one or two links a pair, by the seed. A violation is told with kind and seed, and just that run is
done again with `--kinds KIND --from-seed SEED --seeds 1`.
"""

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from random import Random
from statistics import quantiles

from harness import parser, report

from l4proxy.lab import worldmap
from l4proxy.lab.simulate.faults import KINDS, random_fault
from l4proxy.lab.simulate.running import Simulation
from l4proxy.lab.simulate.scene import make_scene

Job = tuple[str, int, float]


def run(job: Job) -> tuple[str, int, str | None, list[int]]:
    """Simulate one fault; return kind, seed, what broke, and how long each interruption was, ns."""
    kind, seed, seconds = job
    scene = make_scene(worldmap.load(), 3 + seed % 3, 1 + seed // 3 % 2, seed)
    fault = random_fault(scene.fleet, kind, 3.0, seconds / 2, Random(f"{seed} {kind}"))
    simulation = Simulation(scene, seconds, seed, (fault,))
    violation = simulation.run()
    return kind, seed, None if violation is None else str(violation), simulation.flows.tally.repairs_ns


def main() -> int:
    """Run them; exit code 1 when an invariant broke."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=100, help="of each kind")
    options.add_argument("--from-seed", type=int, default=0, help="the first")
    options.add_argument("--seconds", type=float, default=40.0, help="virtual time of each run")
    options.add_argument("--kinds", default=",".join(KINDS), help="which, with commas between")
    args = options.parse_args()
    kinds = args.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        options.error(f"no kind of fault: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    seeds = range(args.from_seed, args.from_seed + args.seeds)
    jobs = [(kind, seed, args.seconds) for kind in kinds for seed in seeds]
    began, violations, repairs = time.monotonic(), 0, []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for kind, seed, broke, found in pool.map(run, jobs, chunksize=4):
            repairs += found
            if broke is not None:
                violations += 1
                sys.stderr.write(f"{kind}, seed {seed}: {broke}\n")
    shares = quantiles(repairs, n=100, method="inclusive") if len(repairs) > 1 else [0.0] * 99
    figures = {
        "kinds": len(kinds),
        "runs": len(jobs),
        "violations": violations,
        "interruptions": len(repairs),
        "repair_s_p50": round(shares[49] / 1e9, 3),
        "repair_s_p95": round(shares[94] / 1e9, 3),
        "repair_s_p99": round(shares[98] / 1e9, 3),
        "repair_s_longest": round(max(repairs, default=0) / 1e9, 3),
        "seconds": round(time.monotonic() - began, 1),
    }
    return report(
        args, "Faults in simulated fleets", figures, [("no invariant broke in any run", violations == 0)]
    )


if __name__ == "__main__":
    raise SystemExit(main())
