"""What the API needs of a daemon. The daemon implements it; tests give a small one of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Json = dict[str, Any]


class RequestRefused(Exception):  # noqa: N818 (an answer, not a mistake)
    """The daemon says no: `status` is the HTTP status, `code` a word for programs, `details` more fields."""

    def __init__(
        self, status: int, code: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = dict(details or {})


@dataclass(frozen=True, slots=True)
class Toggle:
    """What a request to change smart routing asks for; `apps` None: all, `pop` None: fleet-wide."""

    mode: str
    apps: Sequence[str] | None
    pop: str | None


class Backend(Protocol):
    """Everything the API can ask or have done. Lists are the JSON documents of the outside contract."""

    def is_ready(self) -> bool:
        """Whether clients are served: the first snapshot is in force and nothing drains."""

    def status(self) -> Json:
        """Return the body of `/v1/status`."""

    def apps(self) -> Json:
        """Return the body of `/v1/apps`."""

    def pops(self) -> Json:
        """Return the body of `/v1/pops`."""

    def links(self) -> Json:
        """Return the body of `/v1/links`."""

    def routes(self, app: str | None) -> Json:
        """Return the body of `/v1/routes`, of one app or of all."""

    def explain(self, app: str, ingress: str | None, why_not: str | None) -> Json:
        """Return the body of `/v1/explain` as seen from one ingress PoP; `why_not`: a path that is asked about."""

    def gain(self) -> Json:
        """Return the body of `/v1/gain`."""

    def history(self) -> Json:
        """Return the body of `/v1/history`: where links are recorded, and how much there is."""

    def smart_routing(self) -> Json:
        """Return the body of GET `/v1/smart-routing`."""

    async def flows(self, app: str | None, limit: int) -> Json:
        """Return the body of `/v1/flows`."""

    async def whois(self, address: str) -> Json:
        """Return the body of `/v1/whois`: the flows of a client's address, or of one of ours that an origin sees."""

    async def set_smart_routing(self, toggle: Toggle) -> Json:
        """Set or remove an override."""

    async def reload(self) -> Json:
        """Read the files again and apply the difference."""

    async def drain(self, timeout_s: float | None) -> Json:
        """Begin to drain; the daemon ends afterwards."""

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Return content type and body of the exposition that suits an Accept header."""
