"""The light half of common, and what a render service imports, must load where torch, ray and mlflow do not exist."""

import subprocess
import sys

import pytest

LIGHT = ["errors", "episode", "fsio", "geometry", "identity", "protocols", "rng", "scene", "servo"]
CODE = """
import sys
for name in ("torch", "ray", "mlflow", "hydra", "omegaconf", "zarr", "scipy"):
    sys.modules[name] = None  # importing it raises ImportError
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
    print("loaded", name)
"""


def _load(*names):
    return subprocess.run([sys.executable, "-c", CODE, *names], capture_output=True, text=True, check=False)


def test_light_modules_load_without_the_heavy_libraries():
    out = _load(*(f"common.{name}" for name in LIGHT))
    assert out.returncode == 0, out.stderr
    assert out.stdout.split("\n")[:-1] == [f"loaded common.{name}" for name in LIGHT]


def test_the_check_itself_sees_a_heavy_import():
    out = _load("common.networks.servo_net")
    assert out.returncode != 0 and "torch" in out.stderr


@pytest.mark.parametrize("name", LIGHT)
def test_each_light_module_loads_alone(name):
    """No module leans on another having been imported first."""
    code = f"import sys; sys.modules['torch'] = None; import common.{name}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
