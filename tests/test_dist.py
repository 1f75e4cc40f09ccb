"""The wheel and the sdist: each is installed into an empty virtual environment and run from a directory that is not the checkout."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MATURIN = Path(sys.executable).with_name("maturin")


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed. It sees nothing of the checkout that tests may run in."""
    clean = {name: value for name, value in (env or os.environ).items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes; compiled parts are taken from the build that the tests themselves run on."""
    folder = tmp_path_factory.mktemp("dist")
    run(MATURIN, "build", "--release", "--locked", "--quiet", "--sdist", "--out", folder, cwd=ROOT)
    return folder


@pytest.fixture
def empty_environment(tmp_path: Path) -> Path:
    """A virtual environment with the pinned dependencies and nothing of ours."""
    venv.create(tmp_path / "env", with_pip=True)
    pip = tmp_path / "env" / "bin" / "pip"
    run(pip, "install", "--quiet", "--require-hashes", "-r", ROOT / "requirements.lock", cwd=tmp_path)
    return tmp_path / "env"


def assert_it_works(environment: Path, elsewhere: Path) -> None:
    """The command answers, the extension loads, and nothing comes from the checkout."""
    assert run(environment / "bin" / "l4proxy", "--version", cwd=elsewhere).startswith("l4proxy 0.")
    where = "import l4proxy, l4proxy._native; print(l4proxy.__file__, l4proxy._native.__file__)"
    for place in run(environment / "bin" / "python", "-c", where, cwd=elsewhere).split():
        assert Path(place).is_relative_to(environment)
    (elsewhere / "app.yaml").write_text("name: web\nlisten: tcp/8080\norigins: [192.0.2.1:80]\n")
    run(environment / "bin" / "l4proxy", "check", "app.yaml", cwd=elsewhere)


def test_the_wheel_installs_and_runs(dist: Path, empty_environment: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    run(empty_environment / "bin" / "pip", "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)

    assert_it_works(empty_environment, tmp_path)


def test_the_sdist_builds_installs_and_runs(dist: Path, empty_environment: Path, tmp_path: Path) -> None:
    """Dependencies that are compiled already are used again, so that this takes seconds; our own crates are compiled anew."""
    (sdist,) = dist.glob("*.tar.gz")
    env = os.environ | {
        "CARGO_TARGET_DIR": str(ROOT / "rust_ext" / "target"),
        "PATH": f"{empty_environment / 'bin'}:{os.environ['PATH']}",
    }
    pip = empty_environment / "bin" / "pip"
    run(pip, "install", "--quiet", "--no-deps", "--no-build-isolation", sdist, cwd=tmp_path, env=env)

    assert_it_works(empty_environment, tmp_path)
