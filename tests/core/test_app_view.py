"""What is said of an app's settings."""

import json

from l4proxy.core.access_list import AccessList
from l4proxy.core.app import App, Listen, RoutingPolicy
from l4proxy.core.app_view import settings
from l4proxy.core.ids import AppName, PopName
from l4proxy.core.policy import AccessPolicy, CertificateFiles, TlsPolicy

PLAIN = App(AppName("game"), (Listen("udp", "::", 27015, 27015),), ())


def test_an_app_that_says_nothing_has_the_defaults() -> None:
    found = settings(PLAIN)
    assert set(found["limits"]) == {
        "flows",
        "flows_per_source",
        "source_prefix_v6",
        "new_flows_per_second",
        "new_flows_per_second_per_source",
        "bandwidth_per_flow_bytes_per_s",
        "amplification",
    }
    assert [value for key, value in found["limits"].items() if value is not None] == [64]
    assert found["client_address"] == {"udp": "off"}
    assert (found["tls"], found["dscp"], found["pops"]) == (None, None, None)
    assert found["idle_timeout_s"] == {"tcp": 3600.0, "udp": 120.0, "half_closed": 60.0}


def test_everything_that_can_be_said_is_json_and_no_secret() -> None:
    deny = AccessList.of(bytes([192, 0, 2, 0, 24]) * 3, b"")
    app = App(
        AppName("game"),
        PLAIN.listen,
        (),
        access=AccessPolicy(False, deny=deny, allow_files=("/etc/l4proxy/friends",)),
        tls=TlsPolicy("full", (CertificateFiles("/etc/a.pem", "/etc/a.key"),), "/etc/clients.pem"),
        routing=RoutingPolicy(avoid=frozenset({"sin", "ams/a"}), egress=frozenset({PopName("iad")})),
        pops=frozenset({PopName("ams")}),
    )
    found = json.loads(json.dumps(settings(app)))
    assert found["access"] == {
        "default": "deny",
        "allow_prefixes": 0,
        "deny_prefixes": 3,
        "allow_files": ["/etc/l4proxy/friends"],
        "deny_files": [],
    }
    assert found["tls"] == {
        "mode": "full",
        "certificates": ["/etc/a.pem"],
        "client_ca": "/etc/clients.pem",
    }
    assert found["routing"]["avoid"] == ["ams/a", "sin"]
    assert (found["pops"], found["routing"]["egress"]) == (["ams"], ["iad"])
