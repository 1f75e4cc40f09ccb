"""Files and folders: what is read, what is passed over, and that every fault of all files comes at once."""

from pathlib import Path

import pytest

from l4proxy.config.load import check, load_all, load_apps, load_fleet
from l4proxy.config.yaml_source import MAX_FAULTS
from l4proxy.errors import ConfigError
from tests.config.support import APP, THREE, Files, faults_of


def app(name: str, port: int) -> str:
    return f"name: {name}\nlisten: tcp/{port}\norigins: [10.0.0.1]\n"


def test_apps_come_in_name_order_whatever_the_files(files: Files) -> None:
    first = files.write(app("c", 1) + "---\n" + app("a", 2), "z.yaml")
    second = files.write(app("b", 3), "a.yaml")
    assert [found.name for found in load_apps([first, second])] == ["a", "b", "c"]
    assert load_apps([second, first]) == load_apps([first, second])


def test_a_folder_is_its_yaml_files(files: Files) -> None:
    files.write(app("one", 1), "one.yaml")
    files.write(app("two", 2), "two.yml")
    for ignored in ("three.json", "four.yaml~", ".five.yaml", "six.yaml.bak", "folder/seven.yaml"):
        files.write(app("ignored", 3), ignored)
    (files.folder / "eight.yaml").mkdir()
    assert [found.name for found in load_apps([files.folder])] == ["one", "two"]


def test_a_file_reached_twice_is_read_once(files: Files) -> None:
    path = files.write(app("one", 1), "one.yaml")
    (files.folder / "link.yaml").symlink_to(path)
    assert len(load_apps([files.folder, path, str(path), files.folder])) == 1


def test_mounted_configuration_is_read_once(files: Files) -> None:
    """Kubernetes mounts a folder of links into a hidden folder."""
    files.write(app("one", 1), "..2026/one.yaml")
    (files.folder / "..data").symlink_to("..2026")
    (files.folder / "one.yaml").symlink_to("..data/one.yaml")
    assert len(load_apps([files.folder])) == 1


def test_a_fleet_file_in_a_folder_of_apps_is_passed_over_but_not_one_that_is_named(files: Files) -> None:
    fleet = files.write(THREE, "fleet.yaml")
    files.write(app("one", 1), "one.yaml")
    assert len(load_apps([files.folder])) == 1
    assert faults_of(lambda: load_apps([fleet])) == [": is a fleet file where an app file belongs"]


def test_an_app_is_no_fleet(files: Files) -> None:
    path = files.write(APP)
    assert faults_of(lambda: load_fleet(path)) == [": is an app file where the fleet file belongs"]
    nothing = files.write("title: x\n")
    assert faults_of(lambda: load_fleet(nothing)) == [
        "fleet: is missing", "pops: is missing", "title: unknown field",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: folder / "none.yaml", "cannot be read: No such file or directory"),
        (lambda folder: folder, "is a folder without a .yaml file"),
        (lambda folder: folder / "nul\0.yaml", "is not a path"),
    ],
)
def test_what_cannot_be_read_is_a_fault(files: Files, make: object, why: str) -> None:
    path: Path = make(files.folder)  # type: ignore[operator]
    (fault,) = check([path]).faults
    assert (fault.file, fault.reason) == (str(path), why)
    assert faults_of(lambda: load_apps([path])) == [f": {why}"]


def test_a_file_that_fails_while_it_is_read_is_a_fault() -> None:
    """Reading this one is refused by the kernel, also for root."""
    assert faults_of(lambda: load_apps(["/proc/self/mem"])) == [": cannot be read: Input/output error"]


def test_every_fault_of_every_file_comes_at_once_in_order(files: Files) -> None:
    files.write("name: A\nlisten: tcp/1\norigins: [10.0.0.1]\nzzz: 1\n", "b.yaml")
    files.write(app("one", 1) + "class: x\n---\n" + app("two", 0), "a.yaml")
    files.write("a: [", "c.yaml")
    with pytest.raises(ConfigError) as caught:
        load_apps([files.folder])
    places = [(Path(fault.file).name, fault.line) for fault in caught.value.faults]
    assert places == [("a.yaml", 4), ("a.yaml", 7), ("b.yaml", 1), ("b.yaml", 4), ("c.yaml", 2)]
    assert caught.value.more == 0
    assert str(caught.value).count("\n") == 4


def test_apps_are_held_against_each_other_even_when_others_are_wrong(files: Files) -> None:
    faults = files.faults(app("one", 1), app("one", 2), "name: [")
    assert faults == ["1: name: another app has this name", "2: : is not YAML: expected a value here"]


def test_the_fleet_and_the_apps_of_a_daemon_fail_together(files: Files) -> None:
    fleet = files.write(THREE.replace("198.51.100.4", "nowhere"), "fleet.yaml")
    one = files.write(app("one", 0), "one.yaml")
    assert faults_of(lambda: load_all([one], fleet)) == [
        "pops.sin.transits.a: nowhere is not an IP address",
        "listen: port 0 is not a number from 1 to 65535",
    ]


def test_the_apps_of_a_daemon_are_held_against_its_fleet(files: Files) -> None:
    fleet = files.write(THREE, "fleet.yaml")
    one = files.write(app("one", 1) + "pops: [lhr]\n", "one.yaml")
    assert faults_of(lambda: load_all([one], fleet)) == ["pops[0]: the fleet three has no PoP lhr"]
    apps, none = load_all([one], None)
    assert (len(apps), none) == (1, None)
    good = files.write(app("one", 1) + "pops: [iad]\n", "one.yaml")
    apps, found = load_all([good, files.folder], fleet)
    assert found is not None
    assert (found.name, [each.name for each in apps]) == ("three", ["one"])


def test_what_is_kept_of_very_many_faults_is_bounded(files: Files) -> None:
    text = "---\n".join(f"name: app\nlisten: tcp/{n}\norigins: [10.0.0.1]\n" for n in range(1, 301))
    path = files.write(text)
    found = check([path])
    assert (len(found.faults), found.more) == (MAX_FAULTS, 299 - MAX_FAULTS)
    with pytest.raises(ConfigError) as caught:
        load_apps([path])
    assert (len(caught.value.faults), caught.value.more) == (MAX_FAULTS, 299 - MAX_FAULTS)
    assert str(caught.value).endswith("and 199 more")


def test_check_counts_what_it_found(files: Files) -> None:
    files.write(THREE, "fleet.yaml")
    files.write(app("one", 1) + "---\n" + app("two", 2), "apps.yaml")
    found = check([files.folder])
    assert (found.files, len(found.apps), len(found.fleets), found.faults) == (2, 2, 1, [])


def test_no_files_are_no_apps() -> None:
    assert load_apps([]) == ()
