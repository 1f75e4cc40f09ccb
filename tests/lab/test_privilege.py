"""What the lab thinks it may do, on machines that allow less and less."""

import json
import os
import subprocess
import sys

import pytest

from l4proxy.lab import privilege

DETECT = "import json; from dataclasses import asdict; from l4proxy.lab.privilege import detect; print(json.dumps(asdict(detect())))"

needs_user_namespaces = pytest.mark.skipif(
    subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "true"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="user namespaces are refused here",
)


def detected(*prefix: str, **environment: str) -> dict[str, object]:
    command = [*prefix, sys.executable, "-c", DETECT]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | environment, timeout=60
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@needs_user_namespaces
def test_a_machine_without_namespaces_is_told_apart_and_told_what_to_do() -> None:
    """The limits are those of a throw-away user namespace: nothing of this machine is changed."""
    limit = 'for name in user net; do echo 0 > /proc/sys/user/max_${name}_namespaces; done; exec "$@"'
    access = detected("unshare", "--user", "--map-root-user", "sh", "-c", limit, "-")
    assert access["mode"] is None
    missing = access["missing"]
    assert isinstance(missing, list)
    assert missing[0].startswith("as root: no network namespace")
    assert missing[1].startswith("no user namespace")
    assert "an administrator can allow it: sysctl user.max_user_namespaces=15000" in missing
    assert "--cap-add NET_ADMIN" in missing[-1]


@needs_user_namespaces
def test_inside_our_own_user_namespace_nothing_more_is_asked_for() -> None:
    access = detected("unshare", "--user", "--map-root-user", "--net", **{privilege.INSIDE: "1"})
    assert access["mode"] == "userns"
    assert access["wire"] in ("tun", "veth")


def test_a_missing_unshare_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    access = privilege.detect()
    assert access.mode is None
    assert any("install util-linux" in line for line in access.missing)


def test_entering_twice_is_staying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(privilege.INSIDE, "1")
    privilege.reenter(["demo"])
