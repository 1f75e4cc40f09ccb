"""How an app treats its clients, as JSON: limits, access, what its origin learns, TLS. What it does not say is what holds by default."""

from typing import Any

from l4proxy.core.app import App

Json = dict[str, Any]


def settings(app: App) -> Json:
    """Return the settings of an app that are in force."""
    return {
        "limits": limits(app),
        "access": access(app),
        "client_address": {protocol: getattr(app.client_address, protocol) for protocol in app.protocols},
        "accept_client_address": list(app.accept_client_address),
        "source_pool": list(app.source_pool),
        "tls": tls(app),
        "rehome": app.rehome,
        "dscp": app.dscp,
        "duplication": app.duplication,
        "record_client": app.record_client,
        "allow_private_origins": app.allow_private_origins,
        "idle_timeout_s": {
            "tcp": app.idle.tcp_ms / 1000,
            "udp": app.idle.udp_ms / 1000,
            "half_closed": app.idle.half_closed_ms / 1000,
        },
        "connect_timeout_s": app.connect_timeout_ms / 1000,
        "pops": None if app.pops is None else sorted(app.pops),
        "routing": {
            "min_gain_ms": app.routing.min_gain_ms,
            "max_transits": app.routing.max_transits,
            "avoid": sorted(app.routing.avoid),
            "egress": None if app.routing.egress is None else sorted(app.routing.egress),
        },
    }


def limits(app: App) -> Json:
    """Return its caps and rates at one PoP; None: only the engine's own caps apply."""
    found = app.limits
    return {
        "flows": found.flows,
        "flows_per_source": found.flows_per_source,
        "source_prefix_v6": found.source_prefix_v6,
        "new_flows_per_second": found.new_flows_per_second,
        "new_flows_per_second_per_source": found.new_flows_per_second_per_source,
        "bandwidth_per_flow_bytes_per_s": found.bandwidth_per_flow,
        "amplification": found.amplification,
    }


def access(app: App) -> Json:
    """Return who may come. Prefixes are counted, those of files not: a tool may rewrite them at any time."""
    found = app.access
    return {
        "default": "allow" if found.default_allow else "deny",
        "allow_prefixes": len(found.allow),
        "deny_prefixes": len(found.deny),
        "allow_files": list(found.allow_files),
        "deny_files": list(found.deny_files),
    }


def tls(app: App) -> Json | None:
    """Return where TLS ends, by the names of files, never by what is in them; None: it passes through."""
    if app.tls is None:
        return None
    return {
        "mode": app.tls.mode,
        "certificates": [pair.certificate for pair in app.tls.certificates],
        "client_ca": app.tls.client_ca,
    }
