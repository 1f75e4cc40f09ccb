"""What the tests of the daemon share."""

import sys
from collections.abc import Callable
from pathlib import Path

import anyio


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Let the other tasks run until `condition` holds; fail after `timeout_s`."""
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 (what is waited for happens in another process or thread)
            await anyio.sleep(0.002)


REPOSITORY = Path(__file__).parents[2]

FAKE_ENGINE = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from tests import fake_engine; fake_engine.main()",
)
"""How a test's daemon starts an engine: its directory is /, so that it must be told where the tests are."""
