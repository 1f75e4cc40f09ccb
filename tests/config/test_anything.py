"""Whatever stands in a file, the answer is an app, a fleet or faults with places: never another exception."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.config.load import check, load_apps, load_fleet
from l4proxy.config.render import render
from l4proxy.config.schema import AppModel, FleetModel
from l4proxy.config.yaml_source import scan
from l4proxy.errors import ConfigError
from tests.config.broken import FILES
from tests.config.support import PATIENT

yaml_like = st.text(
    st.sampled_from(list("abn:- \n\t[]{}&*!|>'\"%@`#,?~<=01.\\/é日\x85\u2028\ufeff\x00")), max_size=80
)
words = st.sampled_from(
    [
        "tcp/1", "udp/1-9", "10.0.0.1", "10.0.0.1:1", "[::1]:1", "a.example", "srv:a.b", "on", "off", "any", "all", "none", "5s",
        "10k", "2%", "1Mbit/s", "ams", "ams/a", "x/y", "same", "game",
    ]
)  # fmt: skip
fields = st.sampled_from(
    sorted(
        {info.alias or name for model in (AppModel, FleetModel) for name, info in model.model_fields.items()}
    )
)
scalars = st.one_of(
    words, st.none(), st.booleans(), st.integers(-5, 70_000), st.floats(-200, 200), st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(fields, words, st.sampled_from(["tcp", "flows", "address", "from", "to"])),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


def read_every_way(folder: Path, data: bytes) -> None:
    path = folder / "file.yaml"
    path.write_bytes(data)
    found = check([path])
    for fault in found.faults:
        assert fault.line >= 1
        assert fault.column >= 1
        assert fault.reason
        assert len(fault.source_line) <= len(data)
    text = render(found.faults)
    assert all(c.isprintable() or c == "\n" for c in text)
    for load in (lambda: load_apps([path]), lambda: load_fleet(path)):
        with suppress(ConfigError):
            load()


@PATIENT
@given(
    data=st.one_of(st.binary(max_size=80), yaml_like.map(lambda text: text.encode("utf-8", "surrogatepass")))
)
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    read_every_way(tmp_path, data)


@PATIENT
@given(document=st.dictionaries(fields, values, max_size=6))
def test_any_document_with_our_fields(tmp_path: Path, document: dict[str, Any]) -> None:
    read_every_way(tmp_path, yaml.safe_dump(document, allow_unicode=True).encode())


@PATIENT
@given(
    original=st.sampled_from(FILES),
    cut=st.integers(0, 400),
    length=st.integers(0, 20),
    insert=st.one_of(yaml_like, words).map(str.encode),
)
def test_any_damage_to_a_file(tmp_path: Path, original: Path, cut: int, length: int, insert: bytes) -> None:
    data = original.read_bytes()
    read_every_way(tmp_path, data[:cut] + insert + data[cut + length :])


json_text = st.text(st.characters(max_codepoint=0xD7FF), max_size=8)
json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**17), 10**17),
        st.decimals(-100, 100, places=2).map(float),
        json_text,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(json_text.filter(bool), inner, max_size=4)
    ),
    max_leaves=20,
)


@PATIENT
@given(value=st.dictionaries(json_text.filter(bool), json_values, min_size=1, max_size=4))
def test_json_is_yaml_and_means_the_same(value: dict[str, object]) -> None:
    (document,) = scan("f", json.dumps(value).encode()).documents
    assert document.value == value


@pytest.mark.parametrize("name", ["", ".", "..", "/", "\n", "a" * 300, "\udcff"])
def test_any_path(name: str, tmp_path: Path) -> None:
    assert check([tmp_path / name]).faults
