"""Scenes of every kind and what the adapter writes for them; `python -m tests.actors.isaac.golden_for_tests` rewrites
`golden.json`, to be looked through before it is committed.
"""

import dataclasses
import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from actors.isaac.app import AppConfig, start
from actors.isaac.pictures import PictureFiles
from actors.isaac.stage import Room, Stage
from actors.isaac.translate import translate, translate_light
from actors.scenes.shapes import build_mesh
from common.geometry import make_pose, so3_exp
from common.scene import Light, Material, SceneSpec, Shape, Texture
from tests.actors.isaac.isaac_fake import install
from tests.actors.scenes_for_tests import an_object

FILE = Path(__file__).with_name("golden.json")
MATT, ROOM = Material(), Room(1, 2, 1)
SHAPES = {
    "cube": (0.2,), "box": (0.1, 0.2, 0.3), "cylinder": (0.1, 0.2), "cone": (0.1, 0.2), "sphere": (0.1,),
    "revolution": (0.3, 0.05, 0.1, 0.04), "frustum": (0.1, 0.06, 0.2), "capsule": (0.05, 0.3), "torus": (0.1, 0.03),
    "prism": (6, 0.1, 0.2), "pyramid": (4, 0.1, 0.2), "lathe": (0.0, 0.0, 0.1, 0.0, 0.1, 0.2, 0.0, 0.2),
    "mesh": (1.5,),
}  # fmt: skip
COLORS = ((0.8, 0.2, 0.1), (0.1, 0.3, 0.7))
TEXTURES = {
    "plain": Texture("plain", COLORS[:1]),
    "checker": Texture("checker", COLORS, 4.0, 1),
    "noise": Texture("noise", COLORS, 3.0, 2),
    "stripes": Texture("stripes", COLORS, 3.0, 3),
    "symmetric": Texture("checker", COLORS, 4.0, 1, symmetric=True),
    "image": Texture("image", asset="picture"),
}
SKY = tuple((0.9 / (k + 1), 0.8 / (k + 1), 1.0 / (k + 1)) for k in range(9))
LIGHTS = {
    "white": Light(),
    "straight down, shadows": Light((0.0, 0.0, 1.0), 0.8, 0.3, (1.0, 0.9, 0.7), shadow=0.6),
    "sky": Light(ambient_sh=SKY),
}
TURNED = make_pose(so3_exp([0.3, -0.4, 0.9]), [0.1, -0.2, 0.3])


def assets():
    texels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    return {"model": build_mesh(Shape("box", (0.1, 0.1, 0.2))), "picture": texels}


def object_of(kind, texture=TEXTURES["plain"], material=MATT):
    shape = Shape(kind, SHAPES[kind], "model" if kind == "mesh" else "")
    return dataclasses.replace(an_object(shape, TURNED, 3, texture), material=material)


def scene_of(*objects, ground=TEXTURES["checker"], ground_size=1.0):
    return SceneSpec(tuple(objects), objects[0].instance_id, ground, ground_size=ground_size)


def cases():
    """Name of a case -> scene or light, and the part of the stage that it is about."""
    out = {f"shape {kind}": (scene_of(object_of(kind)), "env_0/slot_0") for kind in SHAPES}
    for name, texture in TEXTURES.items():
        out[f"texture {name}"] = (scene_of(object_of("cube", texture)), "env_0/look_0")
        out[f"ground {name}"] = (scene_of(object_of("cube"), ground=texture, ground_size=0.4), "env_0/look_ground")
    shiny = Material(0.5, 0.4, 0.25)
    out["shiny"] = (scene_of(object_of("cube", material=shiny)), "env_0/look_0")
    out["ground size"] = (scene_of(object_of("cube"), ground_size=0.4), "env_0/ground")
    out["empty slot"] = (scene_of(object_of("cube")), "env_0/slot_1")
    return out | {f"light {name}": (light, "lights") for name, light in LIGHTS.items()}


def built(monkeypatch, folder, manifest="5_1", room=ROOM):
    """A stage on a fake that runs."""
    fake = install(monkeypatch, manifest, folder)
    app = start(AppConfig(folder / "kit"))
    app.api.attach_renderer()
    return fake, Stage(app.api, room, PictureFiles(folder / "pictures"))


def written(fake, stage, spec, part):
    """What applying a scene or a light writes to a part of the stage: prim.attribute -> a short form of its value."""
    fake.stage.writes.clear()
    stage._meshes.clear()  # so that every case writes its geometry, whatever the last one showed
    if isinstance(spec, Light):
        stage.light(translate_light(spec))
    else:
        stage.apply(0, translate(spec, assets(), 2))
    return {
        f"{path.removeprefix('/World/')}.{name}": short(value)
        for path, name, value in fake.stage.writes
        if path.startswith(f"/World/{part}")
    }


def short(value):
    """Numbers to six digits; of a long array its shape, its range and the checksum of its bytes; of a file its name."""
    if isinstance(value, np.ndarray) and value.size > 4:
        crc = zlib.crc32(np.ascontiguousarray(value).tobytes())
        return f"{value.dtype} {'x'.join(map(str, value.shape))} {value.min():.4g}..{value.max():.4g} crc {crc:08x}"
    if isinstance(value, np.ndarray):
        return [round(float(v), 6) + 0.0 for v in value]
    if isinstance(value, float):
        return round(value, 6)
    return value.rpartition("/")[2] if isinstance(value, str) else value


def everything(manifest="5_1"):
    """All cases as they are now."""
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory() as folder:
        fake, stage = built(monkeypatch, Path(folder), manifest)
        return {name: written(fake, stage, *case) for name, case in cases().items()}


if __name__ == "__main__":
    rows = [f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in everything().items()]
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
