import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actors.render_service.layout import make_layout
from actors.render_service.shared_frames import HEADER, SEGMENTS, MappedSegments, Segment, SegmentPool
from common.errors import RendererError
from common.proto.servofleet.v1 import render_pb2 as pb

SESSION = "5" * 32
LAYOUT = make_layout(["rgb", "depth"], 2, (3, 5))


def test_what_one_end_writes_the_other_reads_without_a_copy() -> None:
    segment, server = Segment(LAYOUT.total), MappedSegments(1 << 20)
    memory = server.pixels(segment.message(), LAYOUT.total)
    views = LAYOUT.views(memory)
    views["depth"][1, 2, 4] = np.inf
    views["rgb"][0, 0, 0] = [1, 2, 3]
    assert segment.stamp() == (0, 0)
    server.stamp(segment.message(), 7, LAYOUT.total)
    assert segment.stamp() == (7, LAYOUT.total)
    seen = LAYOUT.views(segment.pixels(LAYOUT.total))
    assert np.isinf(seen["depth"]).sum() == 1 and seen["rgb"][0, 0, 0].tolist() == [1, 2, 3]
    server.pixels(segment.message(), LAYOUT.total)
    assert segment.stamp() == (0, 0)  # nothing is taken for rendered while it is not


def test_only_who_maps_this_very_memory_can_answer_the_token() -> None:
    segment = Segment(0)
    assert not segment.answered(SESSION)
    MappedSegments(0).answer(segment.message(), "6" * 32)
    assert not segment.answered(SESSION)
    MappedSegments(0).answer(segment.message(), SESSION)
    assert segment.answered(SESSION)


def refused(message, match):
    with pytest.raises(RendererError, match=match):
        MappedSegments(1 << 20).pixels(message, 8)


def test_memory_of_others_is_refused(tmp_path) -> None:
    segment = Segment(64)
    message = segment.message()
    refused(pb.SharedMemory(pid=message.pid, fd=message.fd, bytes=message.bytes, token=b"x" * 32), "another token")
    refused(pb.SharedMemory(pid=message.pid, fd=message.fd, bytes=message.bytes, token=b""), "a token of 32")
    refused(pb.SharedMemory(pid=1 << 30, fd=3, bytes=message.bytes, token=message.token), "cannot be opened")
    refused(pb.SharedMemory(pid=message.pid, fd=message.fd, bytes=message.bytes + 1, token=message.token), "for good")
    refused(pb.SharedMemory(pid=message.pid, fd=message.fd, bytes=1 << 40, token=message.token), "bytes")
    refused(segment.message().__class__(pid=message.pid, fd=message.fd, bytes=HEADER - 1, token=b"x" * 32), "bytes")
    file = tmp_path / "memfd:servofleet-frames"
    file.write_bytes(message.token + bytes(HEADER))
    with open(file, "r+b") as f:
        size = file.stat().st_size
        refused(pb.SharedMemory(pid=os.getpid(), fd=f.fileno(), bytes=size, token=message.token), "something else")
    assert file.read_bytes() == message.token + bytes(HEADER)
    loose = os.memfd_create("servofleet-frames")
    os.ftruncate(loose, HEADER + 8)  # its owner could cut it short, and kill by SIGBUS who reads it
    refused(pb.SharedMemory(pid=os.getpid(), fd=loose, bytes=HEADER + 8, token=bytes(32)), "for good")
    os.close(loose)


def test_too_small_a_slot_is_refused() -> None:
    segment = Segment(64)
    with pytest.raises(RendererError, match=r"slot\.bytes = 4160: allowed is >= 4161"):
        MappedSegments(1 << 20).pixels(segment.message(), 65)


def test_a_pool_lends_until_two_are_left_and_then_copies() -> None:
    pool, held = SegmentPool(), []
    for k in range(5):
        segment = pool.take(LAYOUT.total)
        views = LAYOUT.views(segment.pixels(LAYOUT.total))
        views["rgb"][:], views["depth"][:] = k, k
        held.append(pool.lease(segment, LAYOUT))
        del segment, views
    assert pool.leased == SEGMENTS - 2
    assert [int(h["rgb"].max()) for h in held] == [0, 1, 2, 3, 4] == [int(h["depth"].min()) for h in held]
    row = held[0]["rgb"][1, 1]
    held.clear()
    assert pool.leased == 1  # one row is enough
    del row
    assert pool.leased == 0


def test_a_server_keeps_few_segments_mapped() -> None:
    def mapped():
        return Path("/proc/self/maps").read_text().count("servofleet-frames")

    before = mapped()
    server = MappedSegments(1 << 20)
    for _ in range(3 * SEGMENTS):
        segment = Segment(64)
        server.stamp(segment.message(), 1, 64)
        del segment
    assert mapped() - before == SEGMENTS
    server.clear()
    assert mapped() == before


KILLED = """
import os, sys, time
import numpy as np
from actors.render_service.shared_frames import MappedSegments, Segment
segment, server = Segment(1 << 20), MappedSegments(1 << 30)
server.pixels(segment.message(), 1 << 20)[:] = 1
print("mapped", flush=True)
time.sleep(60)
"""


def test_nothing_is_left_of_processes_that_are_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"mapped\n"
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        maps = [line for line in lines if "servofleet-frames" in line]
        # Both ends have it, and it has no name in any folder: the kernel frees it with the last of them.
        assert len(maps) == 2 and all(line.endswith("/memfd:servofleet-frames (deleted)") for line in maps)
    finally:
        process.kill()
        process.wait(10.0)
    assert not Path(f"/proc/{process.pid}/maps").exists()
    assert [name for name in os.listdir("/dev/shm") if "servofleet" in name] == []
