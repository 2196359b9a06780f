"""A fake Isaac Sim for tests: what a manifest names, and nothing else.

Any other attribute, argument, dtype or order of calls is a `RefusedError`. It keeps the stage as prims and attributes,
and draws rough pictures of it by USD's own rules (cameras look along -Z, film in tenths of a unit): every visible mesh
is the rectangle about its projected points, as near as its nearest point.
"""

import functools
import importlib.machinery
import importlib.metadata
import inspect
import os
import sys
import threading
import types
from collections import deque

import numpy as np

from actors.isaac import app as app_module
from actors.isaac import version
from actors.isaac.api import load_manifest
from tests.actors.isaac import fake_usd
from tests.actors.isaac.fake_drawing import draw_camera
from tests.actors.isaac.fake_usd import RefusedError

_VERSIONS = {"5_1": "5.1.0.0", "6_0": "6.0.1.0"}


class FakeIsaac:
    """Everything the fake knows; tests change the behaviour below while the renderer runs."""

    def __init__(self, manifest, folder):
        self.manifest = load_manifest(manifest)
        self.folder = folder
        self.delay = 0  # updates that pictures are late
        self.black = False
        self.empty_reads = 0  # reads that give nothing yet
        self.loading = 0  # answers that the stage is still loading
        self.stray_pixels = 0  # pixels with an id that no label explains
        self.wrong_dtype = ""  # output that has another dtype
        self.stuck = False  # pictures no longer change
        self.app_started = self.closed = self.played = False
        self.engines, self.products, self.annotators = [], [], []
        self.launch, self.updates, self.reads = {}, 0, 0
        self.stage = fake_usd.Stage()
        self.settings = {}
        self._shown = deque(maxlen=64)
        self._drawn = {}

    # What the adapter calls.
    def simulation_app(self, launch_config, experience):
        if self.app_started:
            raise RefusedError("a second SimulationApp in one process")
        if threading.current_thread() is not threading.main_thread():
            raise RefusedError("SimulationApp outside the main thread")
        if len(sys.argv) != 3 or sys.argv[1] != "--portable-root" or not os.path.isdir(sys.argv[2]):
            raise RefusedError(f"arguments would be handed to Kit: {sys.argv[1:]}")
        if set(launch_config) != {*self.manifest["launch"], "limit_cpu_threads"}:
            raise RefusedError(f"launch keys {sorted(launch_config)}")
        if os.path.basename(experience) != "isaacsim.exp.base.zero_delay.kit" or not os.path.isfile(experience):
            raise RefusedError(f"experience {experience}")
        self.app_started, self.launch = True, dict(launch_config)
        return self.strict(
            self, "SimulationApp", {"update": self.update, "close": self.close, "set_setting": self._set}
        )

    def update(self):
        self.updates += 1
        if not self.stuck:
            self._shown.append(self.stage.snapshot())

    def close(self, wait_for_replicator=True, skip_cleanup=False, exit_code=0):
        self.closed = True

    def _set(self, setting, value):
        if setting not in self.manifest["settings"]:
            raise RefusedError(f"setting {setting}")
        self.settings[setting] = value

    def get_context(self):
        members = {
            "get_stage": lambda: self.strict(self.stage, "Stage"),
            "get_stage_streaming_status": self._is_loading,
            "get_attached_hydra_engine_names": lambda: tuple(self.engines),
        }
        return self.strict(self, "UsdContext", members)

    def _is_loading(self):
        self.loading = max(self.loading - 1, -1)
        return self.loading >= 0

    def create_hydra_engine(self, name, context):
        self.engines.append(name)

    def tile(self, cameras, tile_resolution, name):
        if "rtx" not in self.engines:
            raise RefusedError("tiles before the renderer is attached")
        if self.products:
            raise RefusedError("a second tiled render product: black pictures on 5.1")
        if not all(isinstance(v, int) for v in tile_resolution) or not isinstance(cameras, list):
            raise RefusedError(f"tile_resolution {tile_resolution}, cameras {type(cameras)}")
        missing = [c for c in cameras if self.stage.prims.get(c) is None or self.stage.prims[c].kind != "Camera"]
        if missing:
            raise RefusedError(f"no camera prims {missing}")
        self.products.append((cameras, tile_resolution))
        return self.strict(self, "RenderProduct", {"path": "/Render/tiles", "destroy": lambda: None})

    def get_annotator(self, name, init_params, device, do_array_copy):
        known = {o["annotator"]: (key, o) for key, o in self.manifest["outputs"].items()}
        if name not in known or init_params != known[name][1]["init_params"] or device != "cuda" or not do_array_copy:
            raise RefusedError(f"annotator {name} {init_params} {device}")
        output, state = known[name][0], {"attached": False}

        def attach(render_products):
            if render_products != ["/Render/tiles"]:
                raise RefusedError(f"attached to {render_products}")
            state["attached"] = True

        def get_data(device):
            if not state["attached"]:
                raise RefusedError("get_data before attach")
            return self._data(output)

        return self.strict(self, "Annotator", {"attach": attach, "get_data": get_data})

    def add_labels(self, prim, labels, **taxonomy):
        if labels != [str(labels[0])] or list(taxonomy.values()) != ["class"]:
            raise RefusedError(f"labels {labels} {taxonomy}")
        found = fake_usd.inside(prim)
        if found.label:
            raise RefusedError(f"{found.path} is labelled twice: 6.x appends")
        found.label = labels[0]

    def play(self, commit):
        self.played = True

    # Drawing.
    def _data(self, output):
        entry = self.manifest["outputs"][output]
        if self.manifest["timeline"] and not self.played:
            return None
        if self.empty_reads > 0 or not self._shown:
            self.empty_reads -= 1
            return self._array(np.zeros((0,), dtype=entry["dtype"]))
        shown = self._shown[max(len(self._shown) - 1 - self.delay, 0)]
        self.reads += 1
        rgb, depth, owner = self._draw(shown)
        if output == "rgb":
            data = np.zeros_like(rgb) if self.black else rgb
        elif output == "depth":
            data = depth
        else:
            first = 2 + 7 * (self.reads % 9)  # ids are another every time
            ids = np.where(owner < 0, 0, owner + first).astype(np.uint32)
            ids.reshape(-1)[: self.stray_pixels] = 10_000
            names = {str(first + k): {"class": label} for k, label in enumerate(shown.labels)}
            info = {"idToLabels": {"0": {"class": "BACKGROUND"}, **names}}
            return {"data": self._array(ids), "info": info}
        return self._array(data.astype(np.float64) if output == self.wrong_dtype else data)

    def _array(self, values):
        return self.strict(self, "Array", {"numpy": lambda: values, "shape": values.shape})

    def _draw(self, shown):
        if shown.number not in self._drawn:
            self._drawn = {shown.number: self._draw_tiles(shown)}
        return self._drawn[shown.number]

    def _draw_tiles(self, shown):
        cameras, (width, height) = self.products[0]
        columns = int(np.ceil(np.sqrt(len(cameras))))
        rows = -(-len(cameras) // columns)
        rgb = np.zeros((rows * height, columns * width, 4), dtype=np.uint8)
        depth = np.zeros((rows * height, columns * width), dtype=np.float32)
        owner = np.full((rows * height, columns * width), -1, dtype=np.int64)
        for k, camera in enumerate(cameras):
            y, x = k // columns * height, k % columns * width
            part = np.s_[y : y + height, x : x + width]
            rgb[part], depth[part], owner[part] = draw_camera(shown, camera, (height, width))
        return rgb, depth, owner

    # Strictness.
    def check_alive(self, what):
        if not self.app_started:
            raise RefusedError(f"{what} before SimulationApp")
        if self.closed:
            raise RefusedError(f"{what} after close")

    def strict(self, value, kind, members=None):
        return fake_usd.strict(value, kind, self.manifest, self.check_alive, members)

    def names(self):
        """Every name of the manifest -> what it does here."""
        return {
            "isaacsim:SimulationApp": self.simulation_app,
            "omni.usd:get_context": self.get_context,
            "omni.usd:create_hydra_engine": self.create_hydra_engine,
            "omni.replicator.core:create.render_product_tiled": self.tile,
            "omni.replicator.core:AnnotatorRegistry.get_annotator": self.get_annotator,
            "isaacsim.core.utils.semantics:add_labels": self.add_labels,
            "isaacsim.core.experimental.utils.semantics:add_labels": self.add_labels,
            "isaacsim.core.experimental.utils.app:play": self.play,
        }


class Finder:
    """Imports the fake's modules; all but `isaacsim` only while the app runs."""

    def __init__(self, modules, fake):
        self._modules, self._fake = modules, fake

    def find_spec(self, name, path=None, target=None):
        if name not in self._modules:
            return None
        if name != "isaacsim":
            self._fake.check_alive(f"import of {name}")
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return self._modules[spec.name]

    def exec_module(self, module):
        pass


class StrictModule(types.ModuleType):
    """A module of the fake: only what the manifest names, and only while the app runs."""

    def __init__(self, name, check):
        super().__init__(name)
        self.__dict__["_check"] = check

    def __getattribute__(self, name):
        if name.startswith("__") or name == "_check":
            return super().__getattribute__(name)
        super().__getattribute__("_check")(f"{self.__name__}.{name}")
        return super().__getattribute__(name)

    def __getattr__(self, name):
        raise AttributeError(f"the manifest has no {self.__name__}.{name}")


def accept(function, arguments, what, check):
    """The function with the manifest's arguments for a signature; other arguments are refused."""
    parameters = [inspect.Parameter(a, inspect.Parameter.POSITIONAL_OR_KEYWORD) for a in arguments]

    @functools.wraps(function)
    def called(*args, **kwargs):
        check(what)
        extra = set(kwargs) - set(arguments)
        if extra or len(args) + len(kwargs) > len(arguments):
            raise RefusedError(f"{what} does not take {sorted(extra) or args}")
        return function(*args, **kwargs)

    called.__signature__ = inspect.Signature(parameters)
    return called


def install(monkeypatch, manifest, folder, hidden=()):
    """Put the fake in the place of Isaac Sim, for one test; names in `hidden` do not exist."""
    fake = FakeIsaac(manifest, folder)
    for name in [m for m in sys.modules if m.split(".")[0] in ("pxr", "isaacsim", "omni", "carb")]:
        monkeypatch.delitem(sys.modules, name)
    modules = {}

    def module(name):
        if name not in modules:
            modules[name] = StrictModule(name, fake.check_alive if name != "isaacsim" else check_first)
            modules[name].__dict__["__path__"] = []
            # Not imported yet, but gone after the test.
            monkeypatch.setitem(sys.modules, name, modules[name])
            del sys.modules[name]
            if "." in name:
                module(name.rpartition(".")[0])
        return modules[name]

    def check_first(what):
        if what == "isaacsim.SimulationApp":
            monkeypatch.setenv("EXP_PATH", str(folder / "apps"))
        else:
            fake.check_alive(what)

    def put(name, value):
        where, _, attributes = name.partition(":")
        holder, *rest = module(where), *attributes.split(".")
        for attribute in rest[:-1]:
            holder = holder.__dict__.setdefault(attribute, types.SimpleNamespace())
        holder.__dict__[rest[-1]] = value

    makers = fake.names()
    for name, entry in fake.manifest["names"].items():
        check = check_first if name == "isaacsim:SimulationApp" else fake.check_alive
        if name not in hidden:
            put(name, accept(makers[name], entry["args"], name.replace(":", "."), check))
    for name, value in fake_usd.names(fake.manifest["pxr"], fake.check_alive).items():
        if name not in hidden:
            put(name, value)
    monkeypatch.setattr(sys, "meta_path", [Finder(modules, fake), *sys.meta_path])
    (folder / "apps").mkdir()
    (folder / "apps" / fake.manifest["experience"]).touch()
    monkeypatch.setenv("OMNI_KIT_ACCEPT_EULA", "YES")
    monkeypatch.delenv("EXP_PATH", raising=False)
    monkeypatch.setattr(sys, "argv", ["pytest", "-q", "tests"])
    monkeypatch.setitem(app_module._state, "started", False)
    monkeypatch.setitem(version.PYTHONS, manifest, sys.version_info[:2])
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: _VERSIONS[manifest] if name == "isaacsim" else real(name)
    )
    monkeypatch.setattr(app_module, "list_gpus", lambda: (version.Gpu("NVIDIA L40S", "580.65.06", 46068),))
    return fake
