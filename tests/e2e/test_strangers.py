"""What comes to the overlay port from outside the fleet, or from inside with nothing sensible in it."""

import json
import sys

import pytest

from tests.e2e.conftest import FleetUnderTest
from tests.e2e.network import wait_until

pytestmark = pytest.mark.e2e

SEND_GARBAGE = """
import json, random, socket, sys
target, seed = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
numbers = random.Random(seed)
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect(target)
client.settimeout(0.5)
answers = 0
for _ in range(2000):
    first = numbers.choice([0, 8, 9, 10, 11, 0x40, 0x7F, 0xC0, 0xCF, 0xFF, numbers.randrange(256)])
    client.send(bytes([first]) + numbers.randbytes(numbers.randrange(1400)))
initial = bytes([0xC3]) + (1).to_bytes(4, "big") + b"\\x08" + numbers.randbytes(8) + b"\\x00\\x00\\x44\\xb0" + numbers.randbytes(1180)
for _ in range(20):
    client.send(initial)
try:
    while client.recv(2000):
        answers += 1
except OSError:
    pass
print(json.dumps(answers))
"""


def dropped(fleet: FleetUnderTest) -> int:
    """Return how many packets ams has dropped so far, for any reason."""
    return int(sum(fleet.daemons["ams"].ask("status")["drops"].values()))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_stranger_gets_no_answer_and_is_counted(fleet: FleetUnderTest, seed: int) -> None:
    before = dropped(fleet)
    done = fleet.net["client"].run(
        sys.executable, "-c", SEND_GARBAGE, fleet.net["ams"].ipv4, "4600", str(seed)
    )

    assert json.loads(done.stdout) == 0
    wait_until("drops are counted", lambda: dropped(fleet) >= before + 1000, timeout_s=5)
    assert fleet.daemons["ams"].ask("status")["ready"]


def test_garbage_from_a_fleet_address_hurts_nobody(fleet: FleetUnderTest) -> None:
    """From sin's address, though not its port: the packets are strangers' to ams, and flows go on."""
    fleet.net["sin"].run(sys.executable, "-c", SEND_GARBAGE, fleet.net["ams"].ipv4, "4600", "3")

    answer = json.loads(fleet.net["client"].run(*fleet.echo("udp", 11_007, seconds=1)).stdout)
    assert answer["received"] == answer["sent"]
