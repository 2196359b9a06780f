"""Models from files: OBJ with MTL and pictures, GLB and PLY, read by trimesh into parts of one look each.

trimesh goes on where a picture is missing or broken; an import must not, so pictures are opened here first, and what
the file says of them is followed to the end. Texture coordinates are turned to those of `actors.scenes.mesh.Mesh`: v
runs down.
"""

from __future__ import annotations

import dataclasses
import io
import json
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from common.errors import AssetError, bad_value

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
MissingTexture = Literal["error", "plain"]

SUFFIXES = (".obj", ".glb", ".ply")
GREY = (178, 178, 178)  # of a model that says nothing of its colour
_MAX_BYTES = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a model with one look, in the file's frame and unit.

    Attributes:
        vertices: f64 (V, 3), finite.
        faces: i64 (F, 3) indices < V.
        uvs: f64 (V, 2) texture coordinates, v down; with `image` only.
        image: RGB picture, or None.
        colors: u8 (V, 3) colours of the vertices, or None.
        color: RGB 0..255 where there is neither.
    """

    vertices: F64
    faces: NDArray[np.int64]
    uvs: F64 | None = None
    image: Image.Image | None = None
    colors: U8 | None = None
    color: tuple[int, int, int] = GREY


def read_parts(path: Path, missing_texture: MissingTexture = "error") -> tuple[tuple[Part, ...], tuple[Path, ...]]:
    """The parts of a model and the files that it is made of, the model itself first.

    Args:
        path: *.obj, *.glb or *.ply.
        missing_texture: what to do where the file names a picture that does not exist: refuse the model, or take the
            material's plain colour.

    Raises:
        AssetError: if the model, its materials or its pictures cannot be read, or it has no triangles.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise AssetError(bad_value("model file", path.name, f"a file ending in one of {SUFFIXES}"))
    size = read_bytes_size(path)
    if not 0 < size <= _MAX_BYTES:
        raise AssetError(bad_value(f"size of {path.name}", size, f"1 .. {_MAX_BYTES} bytes"))
    files = [path]
    pictures: dict[str, Image.Image | None] = {}
    if suffix == ".obj":
        pictures, more = _obj_pictures(path, missing_texture)
        files += more
    elif suffix == ".glb":
        _check_glb(path)
    else:
        picture, more = _ply_picture(path, missing_texture)
        pictures, files = {"": picture}, files + more
    try:
        scene = trimesh.load_scene(path, process=False)
        geometries = [g for g in scene.dump() if isinstance(g, trimesh.Trimesh) and len(g.faces)]
        has_uvs = any(getattr(g.visual, "uv", None) is not None for g in geometries)
        has_uvs = has_uvs or (suffix == ".obj" and b"\nvt " in path.read_bytes())
        parts = tuple(_part(g, pictures, suffix, has_uvs) for g in geometries)
    except AssetError:
        raise
    except Exception as e:
        raise AssetError(f"{path.name} cannot be read: {_one_line(e)}") from e
    if not parts:
        raise AssetError(f"{path.name} holds no triangles")
    return parts, tuple(dict.fromkeys(files))


def read_bytes_size(path: Path) -> int:
    """Bytes of a file.

    Raises:
        AssetError: if there is no such file.
    """
    try:
        return path.stat().st_size
    except OSError as e:
        raise AssetError(f"{path.name} cannot be read: {e.strerror}") from e


def open_picture(source: Path | bytes, name: str) -> Image.Image:
    """A picture, decoded to its last row, as RGB; transparency is dropped.

    Raises:
        AssetError: naming `name`, if it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return picture.convert("RGB")
    except Exception as e:
        raise AssetError(f"picture {name} cannot be read: {_one_line(e)}") from e


def _part(geometry: Any, pictures: dict[str, Image.Image | None], suffix: str, has_uvs: bool) -> Part:
    vertices = np.array(geometry.vertices, dtype=np.float64)
    faces = np.array(geometry.faces, dtype=np.int64)
    if not np.isfinite(vertices).all():
        raise AssetError("vertices are not finite numbers: allowed are finite coordinates")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise AssetError(bad_value("face index", int(faces.max()), f"0 .. {len(vertices) - 1}"))
    visual = geometry.visual
    if visual.kind == "vertex":
        colors = np.array(visual.vertex_colors, dtype=np.uint8)[:, :3]
        return Part(vertices, faces, colors=_shown(colors) if suffix == ".glb" else colors)
    if visual.kind == "face":
        corner = np.repeat(np.array(visual.face_colors, dtype=np.uint8)[:, :3], 3, axis=0)
        return Part(vertices[faces.ravel()], np.arange(faces.size).reshape(-1, 3), colors=corner)
    if visual.kind != "texture":
        return Part(vertices, faces)
    return _textured(vertices, faces, visual, pictures, suffix, has_uvs)


def _textured(
    vertices: F64,
    faces: NDArray[np.int64],
    visual: Any,
    pictures: dict[str, Image.Image | None],
    suffix: str,
    has_uvs: bool,
) -> Part:
    material = visual.material
    if suffix == ".glb":
        image = material.baseColorTexture
        factor = np.array([255] * 3 if material.baseColorFactor is None else material.baseColorFactor[:3], np.uint8)
        r, g, b = _shown(factor).tolist()
        if image is not None:
            image = _tinted(image.convert("RGB"), factor)
    else:
        image = pictures.get("" if suffix == ".ply" else str(material.name))
        r, g, b = (int(c) for c in material.diffuse[:3])
        if suffix == ".ply" or material.name not in pictures:
            r, g, b = GREY
    uv = None if visual.uv is None else np.array(visual.uv, dtype=np.float64)
    if image is None or (uv is None and not has_uvs):
        return Part(vertices, faces, color=(r, g, b))
    if uv is None or uv.shape != (len(vertices), 2):
        # trimesh drops coordinates whose index is out of range.
        raise AssetError(f"triangles of material {material.name} show a picture, but lack valid texture coordinates")
    if not np.isfinite(uv).all():
        raise AssetError("texture coordinates are not finite numbers")
    return Part(vertices, faces, uvs=np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1), image=image)


def _shown(linear: U8 | F64) -> U8:
    """Colours as a screen shows them (sRGB, IEC 61966-2-1) of the linear ones that glTF's factors and vertices have."""
    x = np.asarray(linear, dtype=np.float64) / 255.0
    shown = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(255.0 * shown), dtype=np.uint8)


def _tinted(image: Image.Image, factor: U8) -> Image.Image:
    """A picture times a linear factor, as glTF's base colour is defined."""
    if (factor == 255).all():
        return image
    x = np.arange(256) / 255.0
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    tables = [_shown(linear * f) for f in factor.astype(np.float64)]
    return image.point([int(v) for table in tables for v in table])


def _obj_pictures(path: Path, missing: MissingTexture) -> tuple[dict[str, Image.Image | None], list[Path]]:
    """Material name -> picture, of the materials that an OBJ file can name; None where it has a plain colour."""
    text = path.read_text(errors="replace")
    libraries = [line.split(None, 1)[1].strip() for line in text.splitlines() if line.startswith("mtllib ")]
    pictures: dict[str, Image.Image | None] = {}
    used = {line.split(None, 1)[1].strip() for line in text.splitlines() if line.startswith("usemtl ")}
    files: list[Path] = []
    for library in libraries[:1]:  # trimesh reads the first
        mtl = path.parent / library
        if not mtl.is_file():
            if missing == "error":
                raise AssetError(f"{path.name} names the material file {library}, which is missing")
            continue
        files.append(mtl)
        name = ""
        for line in mtl.read_text(errors="replace").splitlines():
            key, _, value = line.strip().partition(" ")
            if key.lower() == "newmtl":
                name = value.strip()
                pictures[name] = None
            elif key.lower() == "map_kd" and name in used:
                found = _named_picture(path.parent, value.strip(), mtl.name, missing)
                if found is not None:
                    pictures[name] = open_picture(found, value.strip())
                    files.append(found)
    return pictures, files


def _named_picture(folder: Path, value: str, owner: str, missing: MissingTexture) -> Path | None:
    """The picture that a text file names, perhaps behind options such as ``-s 1 1 1``."""
    words = value.replace("\\", "/").split()
    # The name may hold blanks: the longest tail that is a file; data sets keep pictures beside or in a sister folder.
    for start in range(len(words)):
        tail = " ".join(words[start:])
        for candidate in (folder / tail, folder.parent / "materials" / "textures" / Path(tail).name):
            if candidate.is_file():
                return candidate
    if missing == "error":
        raise AssetError(f"{owner} names the texture {value}, which is missing")
    return None


def _ply_picture(path: Path, missing: MissingTexture) -> tuple[Image.Image | None, list[Path]]:
    with path.open("rb") as f:
        head = f.read(65536).split(b"end_header")[0].decode("latin-1")
    for line in head.splitlines():
        if line.lower().startswith("comment texturefile "):
            name = line.split(None, 2)[2].strip()
            found = _named_picture(path.parent, name, path.name, missing)
            return (None, []) if found is None else (open_picture(found, name), [found])
    return None, []


def _check_glb(path: Path) -> None:
    """Refuse what trimesh would pass over: a short file, extensions that change the geometry, unreadable pictures."""
    data = path.read_bytes()
    try:
        magic, _, length, json_length, json_kind = struct.unpack_from("<4sIII4s", data)
        if magic != b"glTF" or json_kind != b"JSON":
            raise AssetError(f"{path.name} is not a GLB file")
        if length != len(data):
            raise AssetError(f"{path.name} is cut short or too long: {len(data)} bytes of {length}")
        header = json.loads(data[20 : 20 + json_length])
        unread = [e for e in header.get("extensionsUsed", []) if e == "KHR_texture_transform"]
        for extension in [*unread, *header.get("extensionsRequired", [])]:
            if not extension.startswith(("KHR_materials_", "EXT_texture_webp")):
                raise AssetError(f"{path.name} needs the glTF extension {extension}, which is not supported")
        binary = data[20 + json_length + 8 :]
        for i, image in enumerate(header.get("images", [])):
            if "bufferView" not in image:
                raise AssetError(f"{path.name} keeps picture {i} outside the file: allowed are embedded pictures")
            view = header["bufferViews"][image["bufferView"]]
            start = view.get("byteOffset", 0)
            open_picture(binary[start : start + view["byteLength"]], f"{i} of {path.name}")
    except AssetError:
        raise
    except Exception as e:
        raise AssetError(f"{path.name} is not a GLB file: {_one_line(e)}") from e


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
