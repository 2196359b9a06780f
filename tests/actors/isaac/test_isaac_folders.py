import subprocess
import sys
from pathlib import Path

import pytest

from actors.isaac import folders
from actors.isaac.folders import cache_root, claim_folder
from actors.isaac.version import IsaacError

ROOT = Path(__file__).parents[3]


def test_each_living_process_has_a_folder_of_its_own_and_the_next_finds_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_held", [])
    code = (
        "import sys; from pathlib import Path; from actors.isaac.folders import claim_folder;"
        f"print(claim_folder(Path({str(tmp_path)!r}), '5.1').name, flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "5.1-0"
    assert claim_folder(tmp_path, "5.1").name == "5.1-1"
    assert claim_folder(tmp_path, "6.0").name == "6.0-0"  # shaders of another version are of no use
    child.kill()  # however it ends, its folder is free
    child.wait()
    child.stdout.close()
    child.stdin.close()
    assert claim_folder(tmp_path, "5.1").name == "5.1-0"
    monkeypatch.setattr(folders, "_MOST", 2)
    with pytest.raises(IsaacError, match="2 processes"):
        claim_folder(tmp_path, "5.1")
    for lock in folders._held:
        lock.close()


def test_where_the_folders_are(tmp_path):
    assert cache_root({"SERVOFLEET_ISAAC_CACHE": "/a"}) == Path("/a")
    assert cache_root({"XDG_CACHE_HOME": "/b"}) == Path("/b/servofleet/isaac")
    assert cache_root({}) == Path.home() / ".cache" / "servofleet" / "isaac"
    (tmp_path / "file").touch()
    with pytest.raises(IsaacError, match="SERVOFLEET_ISAAC_CACHE"):
        claim_folder(tmp_path / "file", "5.1")
