"""Programmes that a measurement needs and that are no part of what is installed: built from a checkout when they are first asked for."""

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from l4proxy.bench.overlay.context import Skipped

BUILD_S = 900.0


@cache
def build(what: str, folder: Path, program: str, *options: str) -> str:
    """Build the workspace in `folder`, with these options of cargo's, and return the path of its `program`, below the folder of releases.

    `folder` is below the current directory. Skipped, with a text that calls it `what`, when it cannot be built here.
    """
    if not (folder / "Cargo.toml").is_file():
        raise Skipped(f"no {folder} here: {what} is built in a checkout")
    if shutil.which("cargo") is None:
        raise Skipped(f"cargo is not installed: {what} cannot be built")
    name = folder.name.replace("_", "-")
    target = os.environ.get("CARGO_TARGET_DIR") or str(
        Path(tempfile.gettempdir()) / f"l4proxy-{name}-{os.geteuid()}"
    )
    command = [
        "cargo",
        "build",
        "--release",
        "--locked",
        "--quiet",
        "--manifest-path",
        str(folder / "Cargo.toml"),
    ]
    try:
        done = subprocess.run(
            [*command, *options, "--target-dir", target],
            capture_output=True, text=True, timeout=BUILD_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Skipped(f"{what} was not built within {BUILD_S:.0f} s") from error
    if done.returncode != 0:
        raise Skipped(f"{what} cannot be built: {done.stderr.strip()[-200:]}")
    return str(Path(target) / "release" / program)
