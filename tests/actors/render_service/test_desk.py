import threading
import time

import pytest

from actors.render_service import desk as desk_module
from actors.render_service.desk import Answer, Desk
from actors.render_service.limits import LimitError
from common.errors import LateFrameError, RendererError, RendererLostError, SceneError

SOON = 30.0


@pytest.fixture
def desk():
    """A desk that is worked at, `ended` of which says what ended it."""
    desk = Desk(max_waiting=3)
    desk.open("a")
    desk.ended = []
    worker = threading.Thread(
        target=lambda: desk.ended.append(desk.run(lambda e: isinstance(e, ZeroDivisionError), lambda: None))
    )
    worker.start()
    desk.worker = worker
    yield desk
    desk.stop()
    worker.join(10.0)
    assert not worker.is_alive()


def ask(desk, number, work, session="a", content=b"same", seconds=SOON):
    return desk.submit(session, number, content, work, time.monotonic() + seconds)


def says(text, done=None):
    def work():
        if done is not None:
            done.append(text)
        return Answer((text,))

    return work


def fails(error):
    def work():
        raise error

    return work


def test_a_repeated_id_has_the_first_answer_and_is_done_once(desk) -> None:
    done = []
    first = ask(desk, 1, says("x", done)).result(SOON)
    assert ask(desk, 1, says("y", done)).result(SOON) is first
    assert done == ["x"]


def test_while_the_first_is_at_work_the_repetition_waits_for_it(desk) -> None:
    go, done = threading.Event(), []

    def slow():
        go.wait(SOON)
        return says("x", done)()

    first, second = ask(desk, 1, slow), ask(desk, 1, slow)
    go.set()
    assert first.result(SOON) is second.result(SOON)
    assert done == ["x"]


def test_a_failure_is_an_answer_that_is_repeated_too(desk) -> None:
    for work in (fails(SceneError("bad")), says("fine")):
        with pytest.raises(SceneError, match="bad"):
            ask(desk, 1, work).result(SOON)


def test_an_id_for_something_else_or_long_past_is_refused(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "KEPT_ANSWERS", 3)
    ask(desk, 1, says("x")).result(SOON)
    with pytest.raises(RendererError, match="request number = 1: allowed is one not used for another request"):
        ask(desk, 1, says("x"), content=b"other")
    for number in range(2, 7):
        ask(desk, number, says(str(number))).result(SOON)
    with pytest.raises(RendererError, match="request number = 1: allowed is > 6: its answer is not kept"):
        ask(desk, 1, says("x"))
    assert ask(desk, 6, says("again")).result(SOON).messages == ("6",)


def test_large_answers_are_kept_one_at_a_time(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "KEPT_BYTES", 100)
    for number in (1, 2):
        ask(desk, number, lambda: Answer(("large",), 500)).result(SOON)
    ask(desk, 3, says("after")).result(SOON)  # what is dropped is dropped when the next is done
    with pytest.raises(RendererError, match="not kept"):
        ask(desk, 1, says("again"))


def test_what_waits_past_its_deadline_is_never_done_and_may_be_asked_again(desk) -> None:
    go, done = threading.Event(), []
    held = ask(desk, 1, lambda: (go.wait(SOON), Answer(()))[1])
    late = ask(desk, 2, says("late", done), seconds=0.0)
    after = ask(desk, 3, says("after", done))
    go.set()
    held.result(SOON)
    with pytest.raises(LateFrameError, match="request 2: its deadline passed"):
        late.result(SOON)
    after.result(SOON)
    assert done == ["after"]
    assert ask(desk, 2, says("now", done)).result(SOON).messages == ("now",)
    assert done == ["after", "now"]


def test_more_than_may_wait_are_refused_and_busy_is_told(desk) -> None:
    go = threading.Event()
    assert desk.busy_s() == 0.0
    held = [ask(desk, k, lambda: (go.wait(SOON), Answer(()))[1]) for k in (1, 2, 3)]
    with pytest.raises(LimitError, match="requests waiting = 4: allowed is <= 3"):
        ask(desk, 4, says("x"))
    time.sleep(0.05)
    assert desk.waiting == 3 and desk.busy_s() >= 0.04
    go.set()
    for one in held:
        one.result(SOON)
    assert ask(desk, 4, says("x")).result(SOON).messages == ("x",)


def test_another_session_takes_over_and_what_the_old_one_waits_for_is_not_done(desk) -> None:
    begun, go, done = threading.Event(), threading.Event(), []
    held = ask(desk, 1, lambda: (begun.set(), go.wait(SOON), Answer(()))[2])
    assert begun.wait(SOON)
    old = ask(desk, 2, says("old", done))
    assert desk.open("b") and not desk.open("b")
    with pytest.raises(RendererLostError, match="another client"):
        ask(desk, 3, says("x"))
    go.set()
    held.result(SOON)
    with pytest.raises(RendererLostError, match="another client"):
        old.result(SOON)
    assert ask(desk, 1, says("new", done), session="b").result(SOON).messages == ("new",)
    assert done == ["new"]


def test_stop_takes_nothing_new_and_answers_what_was_taken(desk) -> None:
    go = threading.Event()
    held = [ask(desk, k, lambda: (go.wait(SOON), Answer(("done",)))[1]) for k in (1, 2)]
    desk.stop()
    with pytest.raises(RendererLostError, match="draining"):
        ask(desk, 3, says("x"))
    go.set()
    assert [one.result(SOON).messages for one in held] == [("done",), ("done",)]
    desk.worker.join(SOON)
    assert desk.ended == [None]


def test_a_fatal_error_ends_the_work_and_what_waits_is_refused(desk) -> None:
    go = threading.Event()
    held = ask(desk, 1, lambda: (go.wait(SOON), fails(ZeroDivisionError("bug"))())[1])
    waiting = ask(desk, 2, says("x"))
    go.set()
    with pytest.raises(ZeroDivisionError):
        held.result(SOON)
    with pytest.raises(RendererLostError, match="the renderer failed before"):
        waiting.result(SOON)
    desk.worker.join(SOON)
    assert [type(e) for e in desk.ended] == [ZeroDivisionError]
