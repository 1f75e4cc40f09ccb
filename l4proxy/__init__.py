"""l4proxy: a self-hosted layer-4 proxy (TCP and UDP) with smart overlay routing."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("l4proxy")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
