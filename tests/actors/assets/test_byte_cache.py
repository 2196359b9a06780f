"""The bounded memory: the least recently used go first."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from actors.assets.byte_cache import ByteCache


def test_the_least_recently_used_goes_first():
    cache = ByteCache(10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    assert cache.get("a") == 1
    cache.put("c", 3, 4)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_what_is_too_large_is_not_kept_and_drives_nothing_out():
    cache = ByteCache(10)
    cache.put("a", 1, 10)
    cache.put("b", 2, 11)
    assert cache.get("b") is None and cache.get("a") == 1


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 8)), max_size=40))
def test_it_never_holds_more_than_it_may_and_is_the_model(puts):
    cache, model = ByteCache(12), OrderedDict()
    for i, (key, size) in enumerate(puts):
        cache.put(key, i, size)
        model.pop(key, None)
        model[key] = (i, size)
        while sum(s for _, s in model.values()) > 12:
            model.popitem(last=False)
        assert cache.nbytes == sum(s for _, s in model.values()) <= 12
    assert {k: cache.get(k) for k in "abcde"} == {k: model[k][0] if k in model else None for k in "abcde"}
