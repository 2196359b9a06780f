import json
import os
import shutil

import numpy as np
import pytest

import learner.checkpoint as module
from common.errors import CheckpointError
from learner.checkpoint import Checkpoints, Score, read_checkpoint

ARRAYS = {"weights/a": np.arange(6, dtype=np.float32).reshape(2, 3), "learner/rng": np.array([1, 2], dtype=np.uint8)}
STATE = {"phase": 1, "cursor": {"step": 7}}


@pytest.fixture
def store(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def test_what_was_saved_comes_back(store):
    store.save(1, ARRAYS, STATE)
    number, arrays, state, complaints = store.latest()
    assert number == 1 and state == STATE and complaints == []
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)


def test_no_checkpoint_is_none(store):
    assert store.latest() is None


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_broken_newest_falls_back_and_is_named(store, tmp_path, name, damage):
    store.save(1, ARRAYS, STATE)
    store.save(2, ARRAYS, {**STATE, "phase": 2})
    path = tmp_path / "checkpoints" / "00000002" / name
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    else:
        path.unlink()
    number, _, state, complaints = store.latest()
    assert number == 1 and state == STATE
    assert len(complaints) == 1 and f"00000002/{name}" in complaints[0]
    # The broken one is no hindrance: the run goes on behind it, and it goes when enough whole ones follow.
    store.save(3, ARRAYS, STATE)
    assert store.latest()[0] == 3 and 1 in store.numbers()
    store.save(4, ARRAYS, STATE)
    assert store.numbers() == [3, 4]


def test_all_broken_is_an_error_not_a_fresh_start(store, tmp_path):
    store.save(1, ARRAYS, STATE)
    (tmp_path / "checkpoints" / "00000001" / "state.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        store.latest()


def test_without_done_it_does_not_exist(store, tmp_path):
    store.save(1, ARRAYS, STATE)
    store.save(2, ARRAYS, STATE)
    (tmp_path / "checkpoints" / "00000002" / "done").unlink()
    number, _, _, complaints = store.latest()
    assert number == 1 and "00000002/done is missing" in complaints[0]
    store.save(2, ARRAYS, STATE)
    assert store.latest()[0] == 2


@pytest.mark.faults
@pytest.mark.parametrize("call", range(1, 8))
def test_killed_anywhere_while_saving_leaves_the_previous_one(tmp_path, call):
    """A child process dies at its n-th flush or rename; the parent must read checkpoint 1 or 2, whole."""
    root = tmp_path / "checkpoints"
    Checkpoints(root, keep=2).save(1, ARRAYS, STATE)
    pid = os.fork()
    if pid == 0:
        count = [0]

        def dying(real):
            def wrapper(*args, **kwargs):
                count[0] += 1
                if count[0] == call:
                    os._exit(9)
                return real(*args, **kwargs)

            return wrapper

        os.fsync, os.rename = dying(os.fsync), dying(os.rename)
        Checkpoints(root, keep=2).save(2, ARRAYS, {**STATE, "phase": 2})
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    number, arrays, state, complaints = Checkpoints(root, keep=2).latest()
    # Only between the rename and the mark there is something to say.
    assert all(c.endswith("00000002/done is missing: this checkpoint was never completed") for c in complaints)
    assert (number, state["phase"]) in [(1, 1), (2, 2)]
    assert np.array_equal(arrays["weights/a"], ARRAYS["weights/a"])
    if os.WEXITSTATUS(status) == 0:
        assert number == 2


def test_everything_is_flushed_before_it_is_marked_done(store, monkeypatch):
    events = []
    real_all, real_one = module.fsync_all, module.fsync_path
    monkeypatch.setattr(module, "fsync_all", lambda paths: events.extend(p.name for p in paths) or real_all(paths))
    monkeypatch.setattr(module, "fsync_path", lambda p: events.append(p.name) or real_one(p))
    store.save(1, ARRAYS, STATE)
    done = events.index("done")
    for name in ("arrays.safetensors", "state.json", "manifest.json", "checkpoints"):
        assert events.index(name) < done


def test_old_ones_go_but_pinned_stay(store, tmp_path):
    store.save(1, ARRAYS, STATE, pin=True)
    for number in range(2, 7):
        store.save(number, ARRAYS, STATE)
    left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert left == ["00000001", "00000005", "00000006"]


def test_every_nth_and_the_best_of_each_evaluation_stay(tmp_path):
    store = Checkpoints(tmp_path, keep=2, every_nth=4, keep_best=1)
    quick = {1: 0.2, 2: 0.7, 3: 0.7, 5: 0.1}
    for number in range(1, 10):
        score = Score("il_quick", quick[number]) if number in quick else None
        store.save(number, ARRAYS, STATE, score=Score("ppo", 0.1) if number == 6 else score)
    # 3 and 6 are the best of their evaluations, 4 and 8 multiples of four, 8 and 9 the newest.
    assert store.numbers() == [3, 4, 6, 8, 9]
    assert store.best("il_quick") == 0.7 and store.best("ppo") == 0.1 and store.best("sil") is None


def test_a_checkpoint_from_before_scores_is_kept_track_of(store):
    for number in (1, 2, 3):
        path = store.save(number, ARRAYS, STATE)
        manifest = json.loads((path / "manifest.json").read_text())
        del manifest["score"]
        (path / "manifest.json").write_text(json.dumps(manifest))
    assert store.numbers() == [2, 3] and store.latest()[0] == 3 and store.best("il") is None


def test_a_manifest_torn_meanwhile_does_not_stop_the_next_save(store):
    for number in (1, 2):
        store.save(number, ARRAYS, STATE)
    (store.path(2) / "manifest.json").write_bytes(b'{"format"')
    store.save(3, ARRAYS, STATE)
    # Not counted among the newest two.
    assert store.numbers() == [1, 2, 3] and store.best("il") is None


def test_a_number_is_written_once(store):
    store.save(3, ARRAYS, STATE)
    with pytest.raises(CheckpointError, match="exists already"):
        store.save(3, ARRAYS, STATE)


def test_nan_in_the_state_is_refused(store):
    with pytest.raises(ValueError, match="JSON"):
        store.save(1, ARRAYS, {"loss": float("nan")})


def test_another_format_is_refused(store, tmp_path):
    path = store.save(1, ARRAYS, STATE)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="format = 99"):
        read_checkpoint(path)


def test_a_full_disk_is_one_line_and_leaves_nothing(store, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "fsync_all", full)
    with pytest.raises(CheckpointError, match="No space left"):
        store.save(1, ARRAYS, STATE)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_the_writing_directory_of_a_dead_process_is_swept(store, tmp_path):
    stray = tmp_path / "checkpoints" / ".writing-dead"
    stray.mkdir()
    store.save(1, ARRAYS, STATE)
    assert not stray.exists()
    shutil.rmtree(tmp_path / "checkpoints")
