"""What processes have used: their own time, their children's, and the kernel's objects."""

import os
import subprocess
import sys
import time

from l4proxy.bench import usage

SLABINFO = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit>
TCPv6                100    120   2496   13    8 : tunables    0    0    0 : slabdata      9      9      0
sock_inode_cache     200    220    832   19    4 : tunables    0    0    0 : slabdata     11     11      0
ext4_inode_cache  368984 368984   1128   29    8 : tunables    0    0    0 : slabdata      9      9      0
radix_tree_node   237272 237272    584   28    4 : tunables    0    0    0 : slabdata      9      9      0
kmalloc-512           10     32    512   32    4 : tunables    0    0    0 : slabdata      1      1      0
"""


def test_the_kernels_objects_are_those_in_use_and_not_those_of_files() -> None:
    assert usage.objects_bytes(SLABINFO) == 100 * 2496 + 200 * 832 + 10 * 512


def test_a_meter_counts_a_process_its_children_and_the_busiest_thread() -> None:
    spin = "import time\nend = time.monotonic() + 120\nwhile time.monotonic() < end: pass"
    parent = (
        f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {spin!r}])\n"
        "print(flush=True)\ninput()\nchild.kill()\nchild.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        family = usage.with_descendants([process.pid])
        assert len(family) == 2
        with usage.Meter([process.pid]) as meter:
            before = usage.cpu_ns(family)
            deadline = time.monotonic() + 60
            while usage.cpu_ns(family) < before + 100_000_000:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        process.communicate(b"\n")
    assert meter.cpu_ns >= 100_000_000
    assert 100_000_000 <= meter.busiest_ns <= meter.cpu_ns
    assert usage.pss_bytes([os.getpid()]) > 1_000_000


def test_what_has_ended_counts_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert usage.cpu_ns([process.pid]) == usage.pss_bytes([process.pid]) == 0
