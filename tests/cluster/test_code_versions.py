"""Workers with other code than the driver are refused, and both versions are named."""

import pytest

import cluster.versions
from cluster.versions import (
    CODE,
    OtherCodeError,
    check_code,
    check_learners,
    code_sha256,
    refusal,
    versions,
    with_own_code,
)
from common.errors import ServofleetError

OTHER = "0.1.0+0123456789ab"


def test_a_process_of_the_driver_s_code_may_work():
    check_code(versions()[CODE])
    assert with_own_code(versions()[CODE], "writer of {}".format, "c000") == "writer of c000"


def test_a_process_of_other_code_may_not_and_does_nothing_before_it_is_refused():
    opened = []
    with pytest.raises(OtherCodeError, match=r"collector c000 .*allowed is the driver's") as refused:
        with_own_code(OTHER, opened.append, "c000")
    assert opened == [] and OTHER in str(refused.value) and versions()[CODE] in str(refused.value)
    assert isinstance(refused.value, ServofleetError) and "\n" not in str(refused.value)


class Learners:
    """What `check_learners` asks of a learner whose processes have these versions."""

    def __init__(self, *codes):
        self.codes = codes

    def ask_each(self, function):
        assert function(object()) == versions()[CODE]
        return list(self.codes)


def test_one_learner_of_other_code_is_refused():
    check_learners(Learners(versions()[CODE], versions()[CODE]))
    with pytest.raises(OtherCodeError, match=f"a learner .*servofleet {OTHER.replace('+', '.')}, the driver has"):
        check_learners(Learners(versions()[CODE], OTHER))


def test_the_hash_is_computed_once_per_process(monkeypatch):
    first = code_sha256()
    monkeypatch.setattr(cluster.versions, "source_sha256", lambda root: pytest.fail("read again"))
    assert code_sha256() == first and versions()[CODE].endswith(first[:12]) and len(first) == 64


@pytest.mark.parametrize("error", [None, RuntimeError("a bug"), ServofleetError("the disk is full")])
def test_other_errors_are_no_refusals(error):
    assert refusal(error) == ""


def test_a_refusal_is_found_in_what_ray_tells():
    text = (
        f"The actor died ... \x1b[36mray::C()\x1b[39m\n  File x\ncluster.versions.OtherCodeError: {OTHER} is not it\n"
    )
    assert refusal(RuntimeError(text)) == f"{OTHER} is not it"
