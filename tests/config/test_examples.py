"""Every example loads, wants nothing that cannot be had yet, and is named where examples are listed."""

from pathlib import Path

import pytest

from l4proxy.config.load import check, load_all

CONFIGS = Path(__file__).parents[2] / "configs"
FLEET = CONFIGS / "fleet-three-pops.yaml"
FLEET_APPS = CONFIGS / "fleet-three-pops-apps.yaml"
APPS = sorted((CONFIGS / "apps").glob("*.yaml"))


@pytest.mark.parametrize("file", [*APPS, FLEET, FLEET_APPS], ids=lambda file: file.name)
def test_an_example_loads(file: Path) -> None:
    found = check([file])
    assert [str(fault) for fault in found.faults] == []
    assert found.apps or found.fleets


def test_all_apps_can_run_together() -> None:
    apps, _ = load_all([CONFIGS / "apps"], None)
    assert [app.name for app in apps] == [
        "accounts", "behind-balancer", "git", "git-ssh", "guarded", "many-sources", "minecraft", "minecraft-bedrock",
        "minecraft-by-name", "sip", "source-engine", "ssh", "teamspeak", "transparent-mail", "voice-spp",
    ]  # fmt: skip


def test_no_example_needs_root() -> None:
    """Ports below 1024 would, so that the first thing a stranger tries fails."""
    apps = check([CONFIGS / "apps", FLEET_APPS]).apps
    assert len(apps) == 18
    assert all(listen.first >= 1_024 for app in apps for listen in app.listen)


def test_the_fleet_and_its_apps_fit_together() -> None:
    apps, fleet = load_all([FLEET_APPS], FLEET)
    assert fleet is not None
    assert list(fleet.pops) == ["ams", "iad", "sin"]
    assert [app.name for app in apps] == ["backup", "game", "voice"]
    assert apps[2].listens_at(next(iter(fleet.pops)))


def test_the_readme_names_every_example() -> None:
    text = (CONFIGS / "README.md").read_text()
    for file in (*APPS, FLEET, FLEET_APPS):
        assert f"{file.relative_to(CONFIGS)}`" in text
