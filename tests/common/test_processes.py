import mmap
import os
import subprocess
import sys

import pytest

from common.processes import process_stat, rss_bytes


def test_a_child_is_known_by_parent_and_birth_and_is_dead_until_it_is_reaped():
    # A name with a parenthesis and blanks in it must not shift the fields.
    rename = "import pathlib, sys; pathlib.Path('/proc/self/comm').write_text('a) Z 1 b'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        found = process_stat(child.pid)
        assert found.state in "RSD" and found.parent == os.getpid()
        assert found.born >= process_stat(os.getpid()).born
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_stat(child.pid).state == "Z"
    with pytest.raises(OSError):
        process_stat(child.pid)


def test_resident_memory_grows_with_what_is_touched():
    # Mapped here: malloc may hand out memory that an earlier test touched and that stayed resident.
    with mmap.mmap(-1, 50_000_000) as held:
        before = rss_bytes()
        for at in range(0, len(held), mmap.PAGESIZE):
            held[at] = 1
        assert 40_000_000 < rss_bytes() - before < 80_000_000
