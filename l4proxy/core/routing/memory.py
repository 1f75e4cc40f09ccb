"""Memory for many tables one after the other. Only how fast they are made; nothing here changes what they say."""

import numpy as np

KEPT_BYTES = 30 << 20
"""Below the 32 MiB that glibc raises its threshold to at most (mallopt(3), M_MMAP_THRESHOLD)."""


def keep_freed_memory() -> None:
    """Make glibc keep what large arrays leave behind, up to 60 MB, instead of giving it back to the kernel after each.

    Fresh pages were a fifth of the time of all pairs after a change. A block of its own that is freed raises the size from which blocks get
    their own, and twice that may stay free (mallopt(3)). With another allocator nothing happens. For programs that build many tables.
    """
    np.empty(KEPT_BYTES, np.uint8)
