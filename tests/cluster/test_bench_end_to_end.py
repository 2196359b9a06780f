"""What the bench of the pipeline makes of its times."""

import pytest

from cluster.bench_end_to_end import shares_of_slower
from cluster.bench_pipeline import _ratios


def test_each_repeat_is_compared_with_its_own_slower_side():
    times = {"collector_alone": [2.0, 8.0], "learner_alone": [4.0, 4.0], "end_to_end": [4.0, 10.0]}
    assert shares_of_slower(times) == [1.0, 0.8]


@pytest.mark.parametrize(("share", "holds"), [(0.9, True), (0.85, True), (0.84, False)])
def test_together_must_reach_85_percent_of_the_slower_side(share, holds):
    names = "collect_pairs collect_pairs_render_only store store_limit sample sample_limit learn_il learn_il_limit"
    found = {r["name"]: r for r in _ratios(dict.fromkeys(names.split(), 1.0) | {"end_to_end_share": share})}
    assert (found["end_to_end_vs_slower_side"]["goal"], found["end_to_end_vs_slower_side"]["holds"]) == (0.85, holds)
