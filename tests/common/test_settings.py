import dataclasses

import pytest

from common.settings import fixed, free


@dataclasses.dataclass
class Inner:
    size: int = free(2, "how large", "> 0")


@dataclasses.dataclass
class Outer:
    inner: Inner = fixed(Inner, "a part")
    names: list[str] = fixed(["a"], "a list")


@pytest.mark.parametrize("declare", [fixed, free])
def test_a_setting_carries_what_is_said_about_it(declare):
    field = declare(1.5, "what it means", "0..2")
    assert field.default == 1.5
    assert field.metadata == {"doc": "what it means", "resume": declare.__name__, "allowed": "0..2"}


def test_lists_and_parts_are_made_anew_for_each_config():
    a, b = Outer(), Outer()
    a.names.append("b")
    a.inner.size = 5
    assert (b.names, b.inner.size) == (["a"], 2)
