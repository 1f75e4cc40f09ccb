"""What the tests of the daemon share."""

from collections.abc import Callable

import anyio


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Let the other tasks run until `condition` holds; fail after `timeout_s`."""
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 (what is waited for happens in another process or thread)
            await anyio.sleep(0.002)
