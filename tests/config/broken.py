"""The broken files of tests/data/config/broken: what `l4proxy check` says of each stands beside it.

To write down anew what is said, after reading that it is right:  python -m tests.config.broken
"""

from contextlib import chdir
from pathlib import Path

from l4proxy.config.load import check
from l4proxy.config.render import render

FOLDER = Path(__file__).parents[1] / "data" / "config" / "broken"
FILES = sorted(FOLDER.glob("*.yaml"))


def what_check_says(file: Path) -> str:
    """Return everything that is said of a file, which is named without its folder."""
    with chdir(file.parent):
        return render(check([file.name]).faults) + "\n"


def expected(file: Path) -> Path:
    """Return where it is written down."""
    return file.with_suffix(".expected")


if __name__ == "__main__":
    for broken in FILES:
        expected(broken).write_text(what_check_says(broken))
