"""The demo from nothing to nothing: make the lab, start its daemons, tell the story, remove it all."""

import time
from collections.abc import Callable
from typing import Any

from l4proxy.lab import daemons
from l4proxy.lab.demo import Demo, Progress, report
from l4proxy.lab.network import Network
from l4proxy.lab.privilege import Access
from l4proxy.lab.state import remove_dead_runs
from l4proxy.lab.story import Story

Told = Callable[[dict[str, Any], str | None], None]


def tell(access: Access, progress: Progress, told: Told) -> dict[str, Any]:
    """Run the demo; return its report. `told` is called with the report and the run while the lab still stands.

    LabError where the machine or a daemon fails. The lab is removed in any case, also at KeyboardInterrupt.
    """
    started = time.monotonic()
    for run in remove_dead_runs():
        progress(f"removed what the dead lab {run} had left")
    story = Story.from_map()
    network = Network.up(story.document(), mode=str(access.mode), wire=access.wire)
    try:
        cities = ", ".join(story.world.sites[pop].city for pop in story.pops)
        progress(
            f"{len(network.plan.hosts)} hosts and {len(network.plan.links)} emulated links ({access.wire}): {cities}"
        )
        daemons.start_fleet(network)
        progress(f"{len(network.plan.pops)} daemons are ready")
        demo = Demo(network, story, progress)
        demo.tell()
        document = report(demo, time.monotonic() - started)
        told(document, network.run.state.run)
        return document
    finally:
        network.down()
        progress("everything is removed")
