"""Last-writer-wins registers: whoever hears the same writes, in whatever order, has the same state."""

from hypothesis import given
from hypothesis import strategies as st

from l4proxy.core.bus import ToggleState
from l4proxy.core.ids import AppName, PopName
from l4proxy.core.toggles import MAX_REGISTERS, Toggles

APP, AMS, SIN = AppName("echo"), PopName("ams"), PopName("sin")

states = st.builds(
    ToggleState,
    st.sampled_from([AppName("a"), AppName("b")]),
    st.sampled_from([None, AMS, SIN]),
    st.sampled_from(["on", "off", "default"]),
    st.integers(1, 5),
    st.sampled_from([AMS, SIN]),
)


def test_a_pops_register_beats_the_one_for_all_and_default_takes_it_back() -> None:
    toggles = Toggles(AMS)
    toggles.write(APP, None, "off")
    toggles.write(APP, AMS, "on")
    assert toggles.effective(APP, AMS, "on") == "on"
    assert toggles.effective(APP, SIN, "on") == "off"
    toggles.write(APP, AMS, "default")
    assert toggles.effective(APP, AMS, "on") == "off"
    toggles.write(APP, None, "default")
    assert toggles.effective(APP, AMS, "on") == "on"


@given(st.lists(states, unique_by=lambda s: (s.key, s.version)))
def test_the_order_of_messages_does_not_matter(writes: list[ToggleState]) -> None:
    forwards, backwards = Toggles(AMS), Toggles(SIN)
    forwards.merge(writes)
    for state in reversed(writes):
        backwards.merge([state])
        backwards.merge([state])
    assert forwards.all() == backwards.all()


def test_a_table_that_is_full_refuses_new_registers_and_counts_them() -> None:
    toggles = Toggles(AMS)
    many = [ToggleState(AppName(f"a{n}"), None, "off", 1, SIN) for n in range(MAX_REGISTERS + 3)]
    toggles.merge(many)
    assert len(toggles.registers) == MAX_REGISTERS
    assert toggles.refused == 3
