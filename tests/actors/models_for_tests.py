"""Small models that the import tests write: their colour is a function of the position, so that it can be checked."""

import io

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

MARGIN = 0.06  # of the globe's texture that no triangle shows; magenta


def color_of(direction):
    """RGB 0..255 of a globe where it looks into a direction (..., 3)."""
    return 127.5 * (1.0 + np.asarray(direction))


def globe_arrays(radius=0.1, rings=24, segments=48):
    """Vertices, faces and texture coordinates (v down) of a sphere with one seam; its chart comes back to itself."""
    polar, turn = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.linspace(0, 1, segments + 1), indexing="ij")
    angle = 2 * np.pi * turn
    direction = np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar)], axis=-1)
    uv = MARGIN + (1 - 2 * MARGIN) * np.stack([turn, polar / np.pi], axis=-1)
    index = np.arange((rings + 1) * (segments + 1)).reshape(rings + 1, segments + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1)[:-1].reshape(-1, 3), np.stack([a, c, d], -1)[1:].reshape(-1, 3)])
    return radius * direction.reshape(-1, 3), faces, uv.reshape(-1, 2)


def globe_picture(side=256):
    """The texture that gives every point of the globe `color_of` its direction."""
    at = ((np.arange(side) + 0.5) / side - MARGIN) / (1 - 2 * MARGIN)
    angle, polar = np.meshgrid(2 * np.pi * at, np.pi * at)
    direction = np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar)], axis=-1)
    inside = (at > -0.5 / side) & (at < 1 + 0.5 / side)
    texels = np.where((inside[:, None] & inside)[..., None], color_of(direction), [255.0, 0.0, 255.0])
    return Image.fromarray(np.round(texels).astype(np.uint8))


def textured(vertices, faces, uv, image, factor=None):
    """A trimesh for GLB and PLY files; `uv` runs down, trimesh's runs up."""
    material = PBRMaterial(baseColorTexture=image, baseColorFactor=factor)
    up = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1)
    return trimesh.Trimesh(vertices, faces, visual=TextureVisuals(uv=up, material=material), process=False)


def globe(factor=None, **size):
    """The globe as a trimesh."""
    return textured(*globe_arrays(**size), globe_picture(), factor)


def colored(radius=0.1, subdivisions=3):
    """A sphere with vertex colours and no texture coordinates."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    mesh.visual.vertex_colors = np.round(color_of(mesh.vertices / radius)).astype(np.uint8)
    return mesh


def painted_box(edges, rgb, offset=(0, 0, 0)):
    """A box of one plain colour, for GLB files."""
    box = trimesh.creation.box(edges)
    box.apply_translation(offset)
    box.visual = TextureVisuals(material=PBRMaterial(baseColorFactor=[*(c / 255 for c in rgb), 1.0]))
    return box


def write_obj(path, parts, pictures=None, mtl="model.mtl"):
    """An OBJ file, its MTL and pictures.

    Args:
        path: of the OBJ.
        parts: (vertices, faces, uvs with v down or None, material name, Kd 0..1, name of the picture or None) each.
        pictures: name -> PIL image or bytes, written beside the OBJ.
        mtl: name of the material file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines, materials = [f"mtllib {mtl}"], []
    start, start_uv = 1, 1
    for vertices, faces, uvs, material, kd, picture in parts:
        lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in np.asarray(vertices)]
        lines += [] if uvs is None else [f"vt {u:.9g} {1 - v:.9g}" for u, v in uvs]
        lines.append(f"usemtl {material}")
        for face in np.asarray(faces).tolist():
            lines.append("f " + " ".join(f"{i + start}" + ("" if uvs is None else f"/{i + start_uv}") for i in face))
        start, start_uv = start + len(vertices), start_uv + (0 if uvs is None else len(uvs))
        materials += [f"newmtl {material}", "Kd {} {} {}".format(*kd)] + ([f"map_Kd {picture}"] if picture else [])
    path.write_text("\n".join(lines) + "\n")
    (path.parent / mtl).write_text("\n".join(materials) + "\n")
    for name, picture in (pictures or {}).items():
        if isinstance(picture, bytes):
            (path.parent / name).write_bytes(picture)
        else:
            picture.save(path.parent / name)
    return path


def write_globe(path, picture="skin.png", with_picture=True, **size):
    """The globe as OBJ, MTL and PNG."""
    parts = [(*globe_arrays(**size), "skin", (0.5, 0.25, 0.0), picture)]
    return write_obj(path, parts, {picture: globe_picture()} if with_picture else {})


def box_arrays(edges, offset=(0, 0, 0)):
    """Vertices and faces of a box."""
    box = trimesh.creation.box(edges)
    return np.asarray(box.vertices) + offset, np.asarray(box.faces)


def write(path, mesh):
    """GLB or PLY of a mesh or scene, by the ending of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = mesh.export(file_type=path.suffix[1:])
    path.write_bytes(data)
    return path


def png(texels):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(texels, dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
