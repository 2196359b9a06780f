import json

from hypothesis import given
from hypothesis import strategies as st

from actors.tasks import Task, split
from common.identity import PolicyVersion

versions = st.none() | st.builds(PolicyVersion, st.integers(0, 9), st.integers(0, 10**6), st.text("0123456789abcdef"))
counts = st.integers(0, 10**6)


@given(
    st.builds(
        Task,
        kind=st.sampled_from(["pairs", "dagger", "rollout", "evaluation"]),
        phase=st.text(),
        lineage=counts,
        round=counts,
        first_env=counts,
        last_env=counts,
        policy=st.text(),
        version=versions,
        explore=st.booleans(),
    )
)
def test_a_task_is_the_same_after_it_was_plain(task):
    assert Task.from_plain(json.loads(json.dumps(task.plain()))) == task


@given(st.integers(1, 200), st.integers(1, 50))
def test_shards_cover_a_round_once_and_evenly(envs, shards):
    tasks = split("pairs", envs, shards, phase="il", lineage=0, round=0)
    assert [env for t in tasks for env in range(t.first_env, t.last_env)] == list(range(envs))
    sizes = {t.num_envs for t in tasks}
    assert len(tasks) == min(shards, envs) and max(sizes) - min(sizes) <= 1 and min(sizes) >= 1
