"""What a replaced server is told, what a failed one costs, and what its keeper hears: over the real renderer."""

import numpy as np
import pytest

from actors.rasteriser.renderer import WarpRenderer
from actors.render_service.limits import LimitError
from actors.render_service.supervised_renderer import FixedServer, SupervisedRenderer
from common.errors import (
    FrameShapeError,
    LateFrameError,
    RendererError,
    RendererLostError,
    SceneError,
    StaleFrameError,
    TornFrameError,
)
from tests.actors.scenes_for_tests import cameras_around, intrinsics, mixed_scenes

SIZE, ALL = (24, 32), ("rgb", "instance_id", "depth")
IDS = np.arange(3)


class Client(WarpRenderer):
    """The embedded renderer, whose next call of `render` may fail."""

    error = None
    closed = False

    def render(self, *args):
        if self.error is not None:
            raise self.error
        return super().render(*args)

    def close(self):
        self.closed = True
        super().close()


class Keeper(FixedServer):
    """Remembers what it was told; each `recycle` and failure gives another server."""

    def __init__(self):
        super().__init__("nowhere")
        self.told = []

    def failed(self, generation, cause, detail):
        self.told.append((generation, cause, detail))
        super().failed(generation, cause, detail)

    def recycle(self, generation, reason):
        self.told.append((generation, "recycled", reason))
        self._generation, self.due = generation + 1, ""

    def stop(self):
        self.told.append("stopped")


@pytest.fixture
def made():
    return []


@pytest.fixture
def keeper():
    return Keeper()


@pytest.fixture
def renderer(keeper, made):
    def connect(address):
        made.append(Client(4))
        return made[-1]

    return SupervisedRenderer(keeper, connect)


def look(renderer, ids=IDS, seed=0):
    count = len(ids)
    return renderer.render(ids, cameras_around(count, seed), intrinsics(count, *SIZE), SIZE, ALL)


def wanted(seed=0):
    renderer = WarpRenderer(4)
    renderer.reset(IDS, mixed_scenes(3))
    return look(renderer, seed=seed)


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("rgb", "instance_id", "depth"))


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RendererLostError, "lost"),
        (RendererError, "lost"),
        (LateFrameError, "late"),
        (StaleFrameError, "wrong_answer"),
        (FrameShapeError, "wrong_answer"),
        (TornFrameError, "wrong_answer"),
    ],
)
def test_a_failed_call_raises_one_error_and_the_next_server_knows_the_scenes(renderer, keeper, made, error, cause):
    renderer.reset(IDS, mixed_scenes(3))
    made[0].error = error("what was seen")
    with pytest.raises(RendererLostError, match=f"server 1 failed, .* used: {error.__name__}: what was seen"):
        look(renderer)
    assert keeper.told == [(1, cause, f"{error.__name__}: what was seen")] and made[0].closed
    assert same(look(renderer), wanted())
    assert len(made) == 2


def test_what_is_wrong_with_the_request_is_no_failure_of_the_server(renderer, keeper, made):
    renderer.reset(IDS, mixed_scenes(3))
    with pytest.raises(SceneError, match="environment 3 has no scene"):
        look(renderer, np.array([3]))
    made[0].error = LimitError("cameras = 9: allowed is <= 4")
    with pytest.raises(LimitError):
        look(renderer)
    assert keeper.told == [] and len(made) == 1


def test_a_server_replaced_between_calls_is_not_seen(renderer, keeper, made):
    renderer.load({"texels": np.zeros((4, 4, 3), np.uint8)})
    scenes = mixed_scenes(3)
    renderer.reset(IDS, [scenes[1], scenes[0], scenes[2]])
    renderer.reset(IDS[:2], scenes[:2])
    first = look(renderer)
    keeper.failed(1, "lost", "a heartbeat was missed")
    second = look(renderer)
    assert len(made) == 2 and made[0].closed and "texels" in made[1]._assets
    assert same(second, wanted()) and same(first, second)
    assert first.frame_id.tolist() == [0, 0, 0] and second.frame_id.tolist() == [1, 1, 1]  # it counts on
    third = look(renderer, np.array([0, 0, 1]))
    assert third.frame_id.tolist() == [2, 3, 2]
    renderer.reset(IDS[:1], scenes[:1])
    assert look(renderer).frame_id.tolist() == [0, 3, 2]


def test_a_reset_that_failed_is_not_told_to_the_next_server(renderer, keeper, made):
    renderer.reset(IDS, mixed_scenes(3))
    bad = mixed_scenes(1, seed=9)
    with pytest.raises(SceneError):
        renderer.reset(np.array([7]), bad)
    keeper.failed(1, "lost", "")
    assert same(look(renderer), wanted())


def test_a_server_that_is_due_is_replaced_before_a_reset_and_not_within_an_episode(renderer, keeper, made):
    renderer.reset(IDS, mixed_scenes(3))
    keeper.due = "resets = 3"
    look(renderer)
    assert keeper.told == []
    renderer.reset(IDS[:1], mixed_scenes(1))
    assert keeper.told == [(1, "recycled", "resets = 3")] and len(made) == 2
    assert same(look(renderer), wanted())


def test_more_scenes_than_one_message_takes_are_sent_in_parts(keeper):
    sizes = []

    class Counting(Client):
        def reset(self, ids, scenes):
            sizes.append(len(ids))
            super().reset(ids, scenes)

    renderer = SupervisedRenderer(keeper, lambda _: Counting(150))
    scenes = mixed_scenes(1) * 150
    renderer.reset(np.arange(150), scenes)
    keeper.failed(1, "lost", "")
    look(renderer, np.array([149]))
    assert sizes == [150, 64, 64, 22]


def test_a_renderer_that_cannot_connect_stops_its_keeper(keeper):
    def refuse(address):
        raise RendererLostError(f"{address}: nobody there")

    with pytest.raises(RendererLostError, match="nowhere: nobody there"):
        SupervisedRenderer(keeper, refuse)
    assert keeper.told[-1] == "stopped"


def test_closing_ends_connection_and_server(renderer, keeper, made):
    renderer.close()
    assert made[0].closed and keeper.told == ["stopped"]
