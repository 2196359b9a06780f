"""The stage: built once, with room for every environment's objects; a reset moves, hides, reshapes and repaints.

Each environment is a cell of a grid with its own finite ground, `SPACING` metres from the next. Cameras stay within
`REACH` of their cell's middle and see `FAR` metres, which ends before anything of a neighbour begins. The two lights
are the stage's: environments under different light are drawn one after the other, the others hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from actors.isaac.api import Api
from actors.isaac.camera import UsdCamera, usd_orientation
from actors.isaac.pictures import PictureFiles
from actors.isaac.translate import (
    DOME_TURN,
    GROUND,
    Geometry,
    Hide,
    LightEdits,
    Paint,
    Place,
    PutMesh,
    SceneEdits,
    SizeGround,
    key_of_picture,
)
from actors.isaac.writing import StageWriter
from common.protocols import F64, U8
from common.scene import Triple

SPACING = 40.0  # metres between the middles of neighbouring cells
GROUND_SIDE = 30.0  # metres
REACH = 4.0  # metres from a cell's middle that cameras and objects keep to
NEAR = 0.01  # metres
FAR = 20.0  # metres; less than SPACING - GROUND_SIDE / 2 - REACH
STAMP_HEIGHT = 5.0  # metres of the stamp's camera
_BOARD_SIDE = 20.0
_GREY: U8 = np.full((1, 1, 3), 128, dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class Room:
    """What the stage has room for: environments, objects in each, cameras at a time."""

    envs: int
    slots: int
    cameras: int


def cell_origin(cell: int, cells: int) -> Triple:
    """Middle [m] of a cell of a square grid about the world's origin."""
    columns = int(np.ceil(np.sqrt(cells)))
    rows = -(-cells // columns)
    return SPACING * (cell % columns - (columns - 1) / 2), SPACING * (cell // columns - (rows - 1) / 2), 0.0


def label_of(env: int, slot: int) -> str:
    """Semantic label of an object slot."""
    return f"env{env}_slot{slot}"


def plane(side: float, repeat: float) -> Geometry:
    """A square about the origin in the plane z = 0, whose picture repeats every `repeat` metres as scenes lay it."""
    half = side / 2.0
    points = np.array([[-half, -half, 0], [half, -half, 0], [half, half, 0], [-half, half, 0]], dtype=np.float32)
    normals = np.tile(np.array([0.0, 0.0, 1.0], dtype=np.float32), (4, 1))
    st = points[:, :2] / np.float32(repeat)
    st[:, 1] = 1.0 - st[:, 1]
    return Geometry(points, normals, st, np.array([0, 1, 2, 0, 2, 3], dtype=np.int32))


class Stage:
    """The prims of all environments. Not thread-safe; belongs to the thread that started the app."""

    def __init__(self, api: Api, room: Room, pictures: PictureFiles) -> None:
        """Build everything that will ever be on the stage."""
        self.room = room
        self._api, self._usd = api, api.usd
        self._pictures = pictures
        self._writer = StageWriter(api.usd, api.stage())
        self._held: dict[str, str] = {}  # material or dome -> file
        self._meshes: dict[tuple[int, int], str] = {}
        self._shown: frozenset[int] = frozenset()
        self._origins = [cell_origin(i, room.envs + 1) for i in range(room.envs + 1)]
        self.camera_paths = tuple(f"/World/cameras/camera_{k}" for k in range(room.cameras + 1))
        self._build()

    def apply(self, env: int, scene: SceneEdits) -> None:
        """Put a scene into an environment."""
        writer = self._writer
        for edit in scene.edits:
            if isinstance(edit, PutMesh):
                if self._meshes.get((env, edit.slot)) != edit.mesh:
                    writer.put_geometry(_slot(env, edit.slot), scene.meshes[edit.mesh])
                    self._meshes[env, edit.slot] = edit.mesh
            elif isinstance(edit, Paint):
                self._paint(_look(env, edit.place), scene.pictures[edit.picture], edit)
            elif isinstance(edit, Place):
                writer.place(_slot(env, edit.slot), edit.position, edit.quaternion, edit.scale)
                writer.set(_slot(env, edit.slot), "visibility", "inherited")
            elif isinstance(edit, Hide):
                writer.set(_slot(env, edit.slot), "visibility", "invisible")
            elif isinstance(edit, SizeGround):
                st = plane(GROUND_SIDE, edit.metres).st
                writer.set(f"{_env(env)}/ground", "primvars:st", self._usd.floats(st))

    def light(self, light: LightEdits) -> None:
        """Light the stage."""
        writer, usd = self._writer, self._usd
        writer.place("/World/lights/sun", (0.0, 0.0, 0.0), light.sun)
        writer.set("/World/lights/sun", "inputs:intensity", light.sun_intensity)
        writer.set("/World/lights/sun", "inputs:color", usd.vec3f(light.sun_color))
        writer.set("/World/lights/sun", "inputs:shadow:enable", light.shadows)
        writer.set("/World/lights/dome", "inputs:intensity", light.dome_intensity)
        file = "" if light.sky is None else self._pictures.put(key_of_picture(light.sky), light.sky)
        writer.set("/World/lights/dome", "inputs:texture:file", usd.asset(file))
        self._hold("/World/lights/dome", file)

    def show(self, envs: Collection[int]) -> None:
        """Make these environments visible and all others invisible."""
        wanted = frozenset(envs)
        for env in sorted(wanted ^ self._shown):
            self._writer.set(_env(env), "visibility", "inherited" if env in wanted else "invisible")
        self._shown = wanted

    def aim(self, camera: int, env: int, world_T_cam: F64, lens: UsdCamera) -> None:
        """Put a camera at an OpenCV pose (4, 4) of an environment."""
        path, pose = self.camera_paths[camera], np.asarray(world_T_cam, dtype=np.float64)
        x, y, z = (float(v) for v in pose[:3, 3] + self._origins[env])
        w, i, j, k = (float(v) for v in usd_orientation(pose[:3, :3]))
        self._writer.place(path, (x, y, z), (w, i, j, k))
        self._set_lens(path, lens)

    def stamp(self, distance: float) -> None:
        """Put the board that the last camera looks at `distance` metres in front of it."""
        self._writer.place("/World/stamp/board", (0.0, 0.0, STAMP_HEIGHT - distance), (1.0, 0.0, 0.0, 0.0))

    def prim_count(self) -> int:
        """Prims on the stage; it stays what it is after building."""
        return self._writer.prim_count()

    def _build(self) -> None:
        writer = self._writer
        for path in ("/World", "/World/cameras", "/World/lights"):
            writer.define(path, "Xform")
        for env in range(self.room.envs):
            self._build_env(env)
        for path in self.camera_paths:
            self._build_camera(path)
        self._build_lights()
        # A camera of our own, looking straight down at a board, tells which state of the stage a frame shows.
        writer.define_placed("/World/stamp", "Xform", self._origins[-1])
        writer.define_look("/World/stamp/look")
        self._paint("/World/stamp/look", _GREY, Paint(GROUND, key_of_picture(_GREY), 0.0, 1.0))
        writer.define_mesh("/World/stamp/board", "/World/stamp/look", plane(_BOARD_SIDE, 1.0))
        x, y, _ = self._origins[-1]
        writer.place(self.camera_paths[-1], (x, y, STAMP_HEIGHT), (1.0, 0.0, 0.0, 0.0))

    def _build_env(self, env: int) -> None:
        writer = self._writer
        writer.define_placed(_env(env), "Xform", self._origins[env])
        writer.create(_env(env), "visibility", "Token", "invisible")
        for place in (*range(self.room.slots), GROUND):
            writer.define_look(_look(env, place))
        writer.define_mesh(f"{_env(env)}/ground", _look(env, GROUND), plane(GROUND_SIDE, 1.0))
        for slot in range(self.room.slots):
            prim = writer.define_mesh(_slot(env, slot), _look(env, slot))
            writer.set(_slot(env, slot), "visibility", "invisible")
            self._api.label(prim, label_of(env, slot))

    def _build_camera(self, path: str) -> None:
        writer = self._writer
        writer.define_placed(path, "Camera")
        writer.create(path, "projection", "Token", "perspective")
        writer.create(path, "clippingRange", "Float2", self._usd.vec2f((NEAR, FAR)))
        writer.create(path, "fStop", "Float", 0.0)
        for name in ("focalLength", "horizontalAperture", "verticalAperture"):
            writer.create(path, name, "Float", 24.0)
        for name in ("horizontalApertureOffset", "verticalApertureOffset"):
            writer.create(path, name, "Float", 0.0)

    def _build_lights(self) -> None:
        writer, usd = self._writer, self._usd
        writer.define_placed("/World/lights/sun", "DistantLight").AddAppliedSchema("ShadowAPI")
        writer.create("/World/lights/sun", "inputs:intensity", "Float", 0.0)
        writer.create("/World/lights/sun", "inputs:color", "Color3f", usd.vec3f((1.0, 1.0, 1.0)))
        writer.create("/World/lights/sun", "inputs:angle", "Float", 0.5)
        writer.create("/World/lights/sun", "inputs:shadow:enable", "Bool", False)
        writer.define_placed("/World/lights/dome", "DomeLight")
        writer.place("/World/lights/dome", (0.0, 0.0, 0.0), DOME_TURN)
        writer.create("/World/lights/dome", "inputs:intensity", "Float", 0.0)
        writer.create("/World/lights/dome", "inputs:texture:file", "Asset", usd.asset(""))
        writer.create("/World/lights/dome", "inputs:texture:format", "Token", "latlong")

    def _set_lens(self, path: str, lens: UsdCamera) -> None:
        values: Mapping[str, float] = {
            "focalLength": lens.focal_length,
            "horizontalAperture": lens.apertures[0],
            "verticalAperture": lens.apertures[1],
            "horizontalApertureOffset": lens.offsets[0],
            "verticalApertureOffset": lens.offsets[1],
        }
        for name, value in values.items():
            self._writer.set(path, name, value)

    def _paint(self, look: str, picture: Any, paint: Paint) -> None:
        file = self._pictures.put(paint.picture, picture)
        self._writer.paint(look, file, paint.specular, paint.roughness)
        self._hold(look, file)

    def _hold(self, holder: str, file: str) -> None:
        if old := self._held.pop(holder, ""):
            self._pictures.release(old)
        if file:
            self._held[holder] = file


def _env(env: int) -> str:
    return f"/World/env_{env}"


def _slot(env: int, slot: int) -> str:
    return f"{_env(env)}/slot_{slot}"


def _look(env: int, place: int) -> str:
    return f"{_env(env)}/look_{'ground' if place == GROUND else place}"
