"""Writing a USD stage with the few calls that every version of USD has: prims, attributes, connections, bindings.

The schema classes (`UsdGeom.Mesh` and the like) only give names to these attributes; going without them keeps what we
need of USD, and what a fake must imitate, small.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from actors.isaac.api import Usd
from actors.isaac.translate import Geometry, Quaternion
from actors.isaac.version import IsaacError
from common.scene import Triple

_OPS = ("xformOp:translate", "xformOp:orient", "xformOp:scale")
_UPRIGHT: Quaternion = (1.0, 0.0, 0.0, 0.0)


class StageWriter:
    """Prims and attributes of one stage; attributes are made once and then set."""

    def __init__(self, usd: Usd, stage: Any) -> None:
        self.usd = usd
        self._stage = stage
        self._attributes: dict[tuple[str, str], Any] = {}

    def define(self, path: str, kind: str) -> Any:
        """A new prim.

        Raises:
            IsaacError: if the stage did not make it.
        """
        prim = self._stage.DefinePrim(path, kind)
        if not prim.IsValid():
            raise IsaacError(f"the stage has no room for a {kind} at {path}")
        return prim

    def create(self, path: str, name: str, kind: str, value: Any = None, interpolation: str = "") -> None:
        """A new attribute of a prim, and its value unless that is None."""
        prim = self._stage.GetPrimAtPath(path)
        attribute = prim.CreateAttribute(name, self.usd.value_type(kind), False)
        if interpolation:
            attribute.SetMetadata("interpolation", interpolation)
        self._attributes[path, name] = attribute
        if value is not None:
            self.set(path, name, value)

    def set(self, path: str, name: str, value: Any) -> None:
        """Set an attribute that was created.

        Raises:
            IsaacError: if the stage refuses the value.
        """
        if not self._attributes[path, name].Set(value):
            raise IsaacError(f"the stage refused {value!r} as {name} of {path}")

    def connect(self, path: str, name: str, kind: str, source: str) -> None:
        """A new attribute that takes its value from another one, "/prim.attribute"."""
        self.create(path, name, kind)
        self._attributes[path, name].SetConnections([self.usd.path(source)])

    def define_placed(self, path: str, kind: str, position: Triple = (0.0, 0.0, 0.0)) -> Any:
        """A new prim with a position, an orientation and a scale, in that order."""
        prim = self.define(path, kind)
        self.create(path, _OPS[0], "Double3", self.usd.vec3d(position))
        self.create(path, _OPS[1], "Quatd", self.usd.quatd(_UPRIGHT))
        self.create(path, _OPS[2], "Double3", self.usd.vec3d((1.0, 1.0, 1.0)))
        self.create(path, "xformOpOrder", "TokenArray", self.usd.tokens(_OPS))
        return prim

    def place(self, path: str, position: Triple, quaternion: Quaternion, scale: float | None = None) -> None:
        """Move a placed prim."""
        self.set(path, _OPS[0], self.usd.vec3d(position))
        self.set(path, _OPS[1], self.usd.quatd(quaternion))
        if scale is not None:
            self.set(path, _OPS[2], self.usd.vec3d((scale, scale, scale)))

    def define_mesh(self, path: str, material: str, geometry: Geometry | None = None) -> Any:
        """A new placed mesh, both sides visible, bound to the material at a path; empty without a geometry."""
        prim = self.define_placed(path, "Mesh")
        self.create(path, "visibility", "Token", "inherited")
        self.create(path, "subdivisionScheme", "Token", "none")
        self.create(path, "doubleSided", "Bool", True)
        self.create(path, "points", "Point3fArray")
        self.create(path, "normals", "Normal3fArray", interpolation="vertex")
        self.create(path, "primvars:st", "TexCoord2fArray", interpolation="vertex")
        self.create(path, "faceVertexCounts", "IntArray")
        self.create(path, "faceVertexIndices", "IntArray")
        self.create(path, "extent", "Float3Array")
        prim.AddAppliedSchema("MaterialBindingAPI")
        prim.CreateRelationship("material:binding", False).SetTargets([self.usd.path(material)])
        if geometry is not None:
            self.put_geometry(path, geometry)
        return prim

    def put_geometry(self, path: str, geometry: Geometry) -> None:
        """Replace what a mesh shows."""
        box = np.stack([geometry.points.min(axis=0), geometry.points.max(axis=0)])
        self.set(path, "points", self.usd.floats(geometry.points))
        self.set(path, "normals", self.usd.floats(geometry.normals))
        self.set(path, "primvars:st", self.usd.floats(geometry.st))
        self.set(path, "faceVertexCounts", self.usd.ints(np.full(len(geometry.corners) // 3, 3, np.int32)))
        self.set(path, "faceVertexIndices", self.usd.ints(geometry.corners))
        self.set(path, "extent", self.usd.floats(box))

    def define_look(self, path: str) -> None:
        """A new material: a preview surface whose diffuse colour is a picture that repeats."""
        self.define(path, "Material")
        surface, picture, st = (f"{path}/{name}" for name in ("surface", "picture", "st"))
        for part, shader in (
            (surface, "UsdPreviewSurface"),
            (picture, "UsdUVTexture"),
            (st, "UsdPrimvarReader_float2"),
        ):
            self.define(part, "Shader")
            self.create(part, "info:id", "Token", shader)
        self.create(st, "inputs:varname", "String", "st")
        self.create(st, "outputs:result", "Float2")
        self.create(picture, "inputs:file", "Asset")
        self.create(picture, "inputs:sourceColorSpace", "Token", "sRGB")
        self.create(picture, "inputs:wrapS", "Token", "repeat")
        self.create(picture, "inputs:wrapT", "Token", "repeat")
        self.connect(picture, "inputs:st", "Float2", f"{st}.outputs:result")
        self.create(picture, "outputs:rgb", "Float3")
        self.connect(surface, "inputs:diffuseColor", "Color3f", f"{picture}.outputs:rgb")
        self.create(surface, "inputs:useSpecularWorkflow", "Int", 1)
        self.create(surface, "inputs:specularColor", "Color3f", self.usd.vec3f((0.0, 0.0, 0.0)))
        self.create(surface, "inputs:roughness", "Float", 1.0)
        self.create(surface, "outputs:surface", "Token")
        self.connect(path, "outputs:surface", "Token", f"{surface}.outputs:surface")

    def paint(self, path: str, picture: str, specular: float, roughness: float) -> None:
        """Change what a material looks like; `picture` is a file."""
        self.set(f"{path}/picture", "inputs:file", self.usd.asset(picture))
        self.set(f"{path}/surface", "inputs:specularColor", self.usd.vec3f((specular, specular, specular)))
        self.set(f"{path}/surface", "inputs:roughness", roughness)

    def prim_count(self) -> int:
        """Prims on the stage; it must not grow once the stage is built."""
        return sum(1 for _ in self._stage.Traverse())
