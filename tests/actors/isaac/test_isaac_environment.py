"""The light half of servofleet in an environment like Isaac Sim's own: old numpy, few libraries."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
REQUIREMENTS = ROOT / "deploy" / "isaac" / "requirements.txt"
# What the wire promises to work with at the oldest, beside the numpy that Isaac Sim 5.1 pins.
OLDEST = ("numpy==1.26.0", "protobuf==4.25.*", "grpcio==1.62.*")
HEAVY = ("torch", "ray", "mlflow", "warp", "hydra", "omegaconf", "zarr", "trimesh", "pxr")


def run(*command, code=0, **more):
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, **more)
    assert done.returncode == code, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_requirements_are_all_that_the_server_and_the_adapter_need(tmp_path):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    source = tmp_path / "source"
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*install, "-r", str(REQUIREMENTS), *OLDEST)
    run(*install, "--no-deps", str(source))
    code = (
        "import json, sys, numpy, google.protobuf\n"
        "import actors.isaac.renderer, actors.isaac.converted, actors.isaac.acceptance\n"
        "import actors.render_service.server, actors.render_service.client, common.episode, common.servo\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "print(json.dumps([numpy.__version__, google.protobuf.__version__, heavy, actors.isaac.renderer.__file__]))"
    )
    numpy, protobuf, heavy, file = json.loads(run(python, "-c", code, cwd=tmp_path))
    assert (numpy, heavy) == ("1.26.0", []) and protobuf.startswith("4.25.")
    assert file.startswith(str(tmp_path / "venv"))
    assert "--backend" in run(python, "-m", "actors.render_service", "--help", cwd=tmp_path)
    assert "isaacsim" in run(python, "-m", "cluster.doctor_isaac", cwd=tmp_path, code=1)
    # The manifests come along, and a scene is translated with this numpy as it is with any other.
    check = (
        "from actors.isaac.api import load_manifest; from actors.isaac.canary import canary_scene\n"
        "from actors.isaac.translate import translate\n"
        "print([load_manifest(m)['version'] for m in ('5_1', '6_0')], sorted(translate(canary_scene(), {}, 1).meshes))"
    )
    assert run(python, "-c", check, cwd=tmp_path) == run(sys.executable, "-c", check, cwd=ROOT)


def test_the_requirements_have_lower_bounds_only_and_name_everything_light():
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", line) for line in lines)
    names = {line.partition(">=")[0] for line in lines}
    assert {"numpy", "grpcio", "protobuf", "pillow"} <= names and not names & set(HEAVY)
