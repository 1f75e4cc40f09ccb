"""Fields whose feature does not exist yet: the default is accepted, anything else is "not supported yet", never ignored."""

import pytest
import yaml

from l4proxy.config.load import check
from l4proxy.config.schema import AppModel, FleetModel, LimitsModel, OriginModel, PopModel, RoutingModel
from tests.config.support import APP, Files

# For each field that cannot be had yet: its default as an operator writes it (None: it has none), and other right values.
LATER = {
    "affinity": ("flow", ["client"]),
    "routing.prefer": ("[]", ["[iad/b]"]),
    "balance": ("weighted", ["least-latency", "failover", "source-hash", "least-players"]),
    "health": ("off", ["tcp", "{check: a2s, interval: 5s, timeout: 2s, down_after: 3, up_after: 2}"]),
    "preset": (None, ["sip"]),
    "answer_queries": ("off", ["on"]),
    "control_group": ("2%", ["0%", "5%"]),
    "kernel_offload": ("auto", ["off"]),
}


def app_with(field: str, value: str) -> str:
    outer, _, inner = field.partition(".")
    return APP + (f"{outer}: {{{inner}: {value}}}\n" if inner else f"{outer}: {value}\n")


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (_, values) in LATER.items() for v in values])
def test_a_later_feature_is_refused_by_name(files: Files, field: str, value: str) -> None:
    """The value is right, so this is the only thing that is said."""
    assert files.faults(app_with(field, value)) == [f"4: {field}: not supported yet"]


@pytest.mark.parametrize(("field", "value"), [(f, default) for f, (default, _) in LATER.items() if default])
def test_the_default_of_a_later_feature_may_be_written_out(files: Files, field: str, value: str) -> None:
    assert files.app(app_with(field, value)) == files.app(APP)


@pytest.mark.parametrize("field", LATER)
def test_a_wrong_value_of_a_later_feature_is_wrong_as_well(files: Files, field: str) -> None:
    """Whoever waits for a feature learns now how to write it."""
    faults = files.faults(app_with(field, "[[nonsense]]"))
    assert faults.count(f"4: {field}: not supported yet") == 1
    assert len(faults) >= 2


@pytest.mark.parametrize("value", ["auto", "shadow"])
def test_smart_routing_may_wait_for_proof_or_move_nothing(files: Files, value: str) -> None:
    assert files.app(APP + f"smart_routing: {value}\n").smart_routing == value


@pytest.mark.parametrize(
    ("origin", "fault"),
    [
        ("{address: 10.0.0.1, weight: 2}", "origins[0].weight: not supported yet"),
        ("{address: 10.0.0.1, priority: 1}", "origins[0].priority: not supported yet"),
        ("{address: 10.0.0.1, zone: eu}", "origins[0].zone: not supported yet"),
    ],
)
def test_origins_have_no_weights_yet(files: Files, origin: str, fault: str) -> None:
    assert files.faults(f"name: app\nlisten: tcp/1\norigins: [{origin}]\n") == [f"3: {fault}"]


def test_an_origin_with_its_defaults_written_out_is_an_address(files: Files) -> None:
    plain = files.app(APP).origins
    assert (
        files.app(APP.replace("203.0.113.10", "{address: 203.0.113.10, weight: 1, priority: 0}")).origins
        == plain
    )


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("pops: {x: {transits: {a: 10.0.0.1:1}, kernel_offload: off}}", "pops.x.kernel_offload"),
    ],
)
def test_later_features_of_a_fleet_are_refused_by_name(files: Files, line: str, fault: str) -> None:
    text = f"fleet: f\n{line}\n"
    if "pops" not in line:
        text += "pops: {x: {transits: {a: 10.0.0.1:1}}}\n"
    assert files.faults(text) == [f"2: {fault}: not supported yet"]


def test_the_table_above_is_complete() -> None:
    """Every field of the schema is either here, or has a place in the core, or both by some of its values."""
    had = {
        "name", "listen", "origins", "smart_routing", "class", "routing", "limits", "idle_timeout", "connect_timeout",
        "pops", "routing.min_gain", "routing.max_transits", "routing.avoid", "routing.egress", "routing.egress_max",
        "limits.flows",
        "limits.flows_per_source", "limits.amplification", "record_client", "source", "allow_private_origins",
        "client_address", "accept_client_address", "dscp", "duplication", "access", "tls", "limits.source_prefix_v6",
        "limits.new_flows_per_second",
        "limits.new_flows_per_second_per_source", "limits.bandwidth_per_flow", "rehome",
    }  # fmt: skip
    names = {info.alias or name for name, info in AppModel.model_fields.items()}
    names |= {f"routing.{name}" for name in RoutingModel.model_fields}
    names |= {f"limits.{name}" for name in LimitsModel.model_fields}
    assert names == had | LATER.keys()
    assert OriginModel.model_fields.keys() == {"address", "weight", "priority", "zone"}
    assert PopModel.model_fields.keys() == {"location", "transits", "dial", "transit_rate", "kernel_offload"}
    assert FleetModel.model_fields.keys() == {
        "fleet", "pops", "links", "mesh", "datagrams", "issuer", "probe_budget",
    }  # fmt: skip


def test_nothing_later_hides_behind_a_document_that_is_wrong_elsewhere(files: Files) -> None:
    text = yaml.safe_dump(
        {"name": "UPPER", "listen": "nowhere", "origins": ["play.example.net"], "health": "tcp"}
    )
    reasons = [fault.reason for fault in check([files.write(text)]).faults]
    assert "not supported yet" in reasons
    assert len(reasons) == 3
