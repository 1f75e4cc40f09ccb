"""Renew requirements.lock: every Python package that `make` installs, with hashes, from pyproject.toml."""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run pip-compile over the runtime and development dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"], "pip"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(wanted) + "\n")
        command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--upgrade", "--generate-hashes"]
        command += ["--strip-extras", "--allow-unsafe", "--no-header", "--no-annotate"]
        command += ["--no-emit-find-links", "--no-emit-index-url", "--no-emit-trusted-host"]
        command += ["--output-file", str(ROOT / "requirements.lock"), str(source)]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
