"""The one place through which every name of Isaac Sim, Omniverse, Replicator and USD is reached.

What may be reached stands in a manifest per version (`manifest_5_1.json`, `manifest_6_0.json`, and `manifest_usd.json`
for USD, which both use): names, arguments, dtypes, axes, and how sure we are of each. No other file of the package
imports them, so a version that differs is a manifest that differs.

Pictures are read from Replicator's annotators rather than from the batched camera classes: those differ between the
versions, read their resolution in two orders (5.1's fits square tiles only), rewrite intrinsics, and leave it open
whether labels are colours. Replicator's tiles are (width, height) in both.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.isaac.version import IsaacError, Manifest
from common.errors import bad_value
from common.protocols import F32, I32

_FOLDER = Path(__file__).parent


def load_manifest(manifest: Manifest) -> dict[str, Any]:
    """The manifest of a version, with USD's part under "pxr"."""
    found: dict[str, Any] = json.loads((_FOLDER / f"manifest_{manifest}.json").read_text())
    found["pxr"] = json.loads((_FOLDER / found["usd"]).read_text())
    return found


class Usd:
    """USD by the names of its manifest. Works with Isaac's own `pxr` and, offline, with the `usd-core` wheel."""

    def __init__(self, manifest: Mapping[str, Any] | None = None) -> None:
        self._manifest = manifest or json.loads((_FOLDER / "manifest_usd.json").read_text())
        self._found: dict[str, Any] = {}

    def name(self, name: str) -> Any:
        """The object of a name such as "pxr.Gf:Vec3d".

        Raises:
            IsaacError: if the manifest does not list it, or it does not exist.
        """
        if name not in self._found:
            self._found[name] = _resolve(name, self._manifest["names"], "USD")
        return self._found[name]

    def value_type(self, name: str) -> Any:
        """A member of `Sdf.ValueTypeNames`."""
        names = self._manifest["names"]["pxr.Sdf:ValueTypeNames"]["members"]
        if name not in names:
            raise IsaacError(bad_value("USD value type", name, f"one of {names}"))
        return getattr(self.name("pxr.Sdf:ValueTypeNames"), name)

    def vec3d(self, xyz: Sequence[float]) -> Any:
        """Three doubles."""
        return self.name("pxr.Gf:Vec3d")(*map(float, xyz))

    def vec3f(self, xyz: Sequence[float]) -> Any:
        """Three floats."""
        return self.name("pxr.Gf:Vec3f")(*map(float, xyz))

    def vec2f(self, xy: Sequence[float]) -> Any:
        """Two floats."""
        return self.name("pxr.Gf:Vec2f")(*map(float, xy))

    def quatd(self, wxyz: Sequence[float]) -> Any:
        """A quaternion of doubles, given real part first."""
        return self.name("pxr.Gf:Quatd")(*map(float, wxyz))

    def asset(self, path: str) -> Any:
        """A file named by a stage; "" is none."""
        return self.name("pxr.Sdf:AssetPath")(path)

    def path(self, path: str) -> Any:
        """A place in a stage."""
        return self.name("pxr.Sdf:Path")(path)

    def floats(self, array: F32) -> Any:
        """An array f32 (n, 2) or (n, 3)."""
        kind = {2: "pxr.Vt:Vec2fArray.FromNumpy", 3: "pxr.Vt:Vec3fArray.FromNumpy"}[array.shape[1]]
        return self.name(kind)(array)

    def ints(self, array: I32) -> Any:
        """An array i32 (n,)."""
        return self.name("pxr.Vt:IntArray.FromNumpy")(array)

    def tokens(self, values: Sequence[str]) -> Any:
        """An array of tokens."""
        return self.name("pxr.Vt:TokenArray")(list(values))


class Api:
    """Isaac Sim by the names of a version's manifest. Only `start_app` may be called before the app runs."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self._manifest = manifest
        self.version: str = manifest["version"]
        self.usd = Usd(manifest["pxr"])

    def name(self, name: str) -> Any:
        """The object of a name such as "omni.usd:get_context"; raises `IsaacError` as `Usd.name` does."""
        return _resolve(name, self._manifest["names"], f"Isaac Sim {self.version}")

    def start_app(self, more: Mapping[str, Any]) -> Any:
        """Construct `SimulationApp` with the manifest's launch settings, and `more`, under its zero-delay experience.

        Raises:
            IsaacError: if `isaacsim` did not set the folder of its experiences, or has no such file.
        """
        simulation_app = self.name("isaacsim:SimulationApp")
        # Set by `import isaacsim`, which is why it is read here and not before.
        folder = os.environ.get("EXP_PATH", "")
        experience = Path(folder) / self._manifest["experience"]
        if not folder or not experience.is_file():
            raise IsaacError(bad_value("experience", str(experience), "a file: install isaacsim[all,extscache]"))
        return simulation_app({**self._manifest["launch"], **more}, experience=str(experience))

    def verify(self) -> None:
        """Look up every name of the manifest and compare its arguments, where Python can tell them.

        Raises:
            IsaacError: naming the first that is missing or takes other arguments.
        """
        for name, entry in self._manifest["names"].items():
            _check_arguments(name, self.name(name), entry.get("args", ()), self.version)
        for name, entry in self._manifest["pxr"]["names"].items():
            found = self.usd.name(name)
            for member in entry.get("members", ()):
                if not hasattr(found, member):
                    raise IsaacError(f"{name}.{member} does not exist in Isaac Sim {self.version}'s USD")

    def settings(self) -> dict[str, Any]:
        """Path -> value of the settings that are made once the app runs."""
        return dict(self._manifest["settings"])

    def stage(self) -> Any:
        """The stage that the app opened; metres, z up."""
        stage = self.name("omni.usd:get_context")().get_stage()
        self.usd.name("pxr.UsdGeom:SetStageUpAxis")(stage, self._manifest["pxr"]["axes"]["up"])
        self.usd.name("pxr.UsdGeom:SetStageMetersPerUnit")(stage, self._manifest["pxr"]["axes"]["metersPerUnit"])
        return stage

    def is_loading(self) -> bool:
        """Whether textures and geometry are still being streamed to the GPU."""
        return bool(self.name("omni.usd:get_context")().get_stage_streaming_status())

    def attach_renderer(self) -> None:
        """Attach the RTX engine before anything is tiled: a cold pipeline gives black tiles."""
        context = self.name("omni.usd:get_context")()
        if "rtx" not in context.get_attached_hydra_engine_names():
            self.name("omni.usd:create_hydra_engine")("rtx", context)

    def play(self) -> None:
        """Start the timeline in versions whose annotators give nothing without; there is no physics to move."""
        if self._manifest["timeline"]:
            self.name(self._manifest["timeline"])(commit=True)

    def label(self, prim: Any, label: str) -> None:
        """Give a prim a semantic label of the taxonomy "class"; call once per prim, for 6.x appends."""
        labels = self._manifest["labels"]
        add = self.name(labels["name"])
        taxonomy = {labels["taxonomy_argument"]: "class"}
        if labels["positional"]:
            add(prim, [label], **taxonomy)
        else:
            add(prim, labels=[label], **taxonomy)

    def tile(self, cameras: Sequence[str], size: tuple[int, int]) -> Any:
        """One render product of all cameras. There can be only one size of tiles in the life of a process.

        Args:
            cameras: paths of the camera prims.
            size: (height, width) of a tile; turned round for Replicator.
        """
        create = self.name("omni.replicator.core:create.render_product_tiled")
        return create(cameras=list(cameras), tile_resolution=(size[1], size[0]), name="servofleet")

    def annotator(self, output: str, product: Any) -> Any:
        """Attach the annotator of an output, "rgb", "depth" or "labels", to a render product."""
        wanted = self.output(output)
        get = self.name("omni.replicator.core:AnnotatorRegistry.get_annotator")
        # Copies, so that the next update cannot write into what is still being read.
        made = get(wanted["annotator"], init_params=wanted["init_params"], device="cuda", do_array_copy=True)
        made.attach([product.path])
        return made

    def output(self, output: str) -> Mapping[str, Any]:
        """What the manifest says of an output: annotator, dtype, channels, whether it comes with an info record."""
        entry: Mapping[str, Any] = self._manifest["outputs"][output]
        return entry


def _resolve(name: str, names: Mapping[str, Any], of: str) -> Any:
    if name not in names:
        raise IsaacError(f"{name} is not in the manifest of {of}: add it there first, with where it was read")
    module, _, attributes = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as e:
        raise IsaacError(f"{of} has no {name}, which its manifest names: {e}") from e
    return found


def _check_arguments(name: str, found: Any, arguments: Sequence[str], version: str) -> None:
    signature = None
    with contextlib.suppress(TypeError, ValueError):  # compiled callables do not tell
        signature = inspect.signature(found)
    if signature is None or any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    missing = [a for a in arguments if a not in signature.parameters]
    if missing:
        raise IsaacError(f"{name} of Isaac Sim {version} takes {signature}, not {missing[0]}, which the manifest names")
