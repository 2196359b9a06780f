"""The part of USD that the manifest names: prims with typed attributes, kept so that tests can look at them."""

import functools
import types

import numpy as np


class RefusedError(AssertionError):
    """The fake was asked for something that the manifest does not name."""


class Value:
    """A value of `Gf`, `Vt` or `Sdf`: the name of its type, and numbers or text."""

    def __init__(self, kind, data):
        self.kind, self.data = kind, data


class Prim:
    def __init__(self, path, kind, writes):
        self.path, self.kind, self.writes = path, kind, writes
        self.types, self.values, self.connections, self.targets = {}, {}, {}, {}
        self.metadata, self.schemas, self.label = {}, [], ""


class Stage:
    """Prims by path. `writes` lists every value that was set: (path, attribute, value)."""

    def __init__(self):
        self.prims, self.writes = {}, []
        self.up = self.metres = None

    def snapshot(self):
        return Snapshot(self)


class Snapshot:
    """The stage as it was at an update."""

    _count = 0

    def __init__(self, stage):
        Snapshot._count += 1
        self.number = Snapshot._count
        self.stage = stage
        self.attributes = {path: dict(prim.values) for path, prim in stage.prims.items()}
        self.label_of = {path: prim.label for path, prim in stage.prims.items() if prim.label}
        self.labels = list(self.label_of.values())

    def meshes(self):
        """Paths of meshes that neither they nor their parents hide."""
        return [p for p, prim in self.stage.prims.items() if prim.kind == "Mesh" and not self._hidden(p)]

    def world(self, path):
        """4x4 pose and scale of a prim in the world."""
        out = np.eye(4)
        for place in self._line(path):
            values = self.attributes[place]
            if "xformOp:translate" in values:
                local = np.eye(4)
                local[:3, :3] = rotation(values["xformOp:orient"]) * values["xformOp:scale"]
                local[:3, 3] = values["xformOp:translate"]
                out = out @ local
        return out

    def picture_of(self, path):
        look = self.stage.prims[path].targets["material:binding"][0]
        return self.attributes[f"{look}/picture"]["inputs:file"]

    def _hidden(self, path):
        return any(self.attributes[p].get("visibility") == "invisible" for p in self._line(path))

    def _line(self, path):
        parts = path.split("/")[1:]
        return [p for k in range(len(parts)) if (p := "/" + "/".join(parts[: k + 1])) in self.attributes]


def rotation(wxyz):
    w, x, y, z = wxyz
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


class Strict:
    """Shows of an object the members that the manifest names, with the arguments that it names."""

    def __init__(self, value, kind, members, allowed, check):
        self.__dict__.update(_value=value, _kind=kind, _members=members, _allowed=allowed, _check=check)

    def __getattr__(self, name):
        what = f"{self._kind}.{name}"
        if name not in self._allowed:
            raise RefusedError(f"the manifest has no {what}")
        self._check(what)
        arguments = self._allowed[name]
        if arguments is None:
            return self._members[name]

        def call(*args, **kwargs):
            if set(kwargs) - set(arguments) or len(args) + len(kwargs) > len(arguments):
                raise RefusedError(f"{what} does not take {args} {sorted(kwargs)}")
            return self._members[name](*args, **kwargs)

        return call

    def __setattr__(self, name, value):
        raise RefusedError(f"{self._kind}.{name} is set")


def inside(strict):
    return strict._value


def strict(value, kind, manifest, check, members=None):
    """A strict view of an object of the manifest's type `kind`; stages and prims bring their own members."""
    table = manifest["types"].get(kind) or manifest["pxr"]["types"][kind]
    if members is None:
        members = {
            name: functools.partial(METHODS[kind, name], value, manifest, check)
            for name, arguments in table.items()
            if arguments is not None and (kind, name) in METHODS
        }
    return Strict(value, kind, members, table, check)


def _define(stage, manifest, check, path, type_name):
    if path in stage.prims:
        raise RefusedError(f"{path} is defined twice")
    parent = path.rpartition("/")[0]
    if parent and parent not in stage.prims:
        raise RefusedError(f"{path} has no parent")
    stage.prims[path] = Prim(path, type_name, stage.writes)
    return strict(stage.prims[path], "Prim", manifest, check)


def _create(prim, manifest, check, name, type_name, custom):
    if name in prim.types or custom is not False:
        raise RefusedError(f"{prim.path}.{name} is created twice, or custom")
    prim.types[name] = type_name
    return strict((prim, name), "Attribute", manifest, check)


def _set(place, manifest, check, value):
    prim, name = place
    wanted = manifest["pxr"]["values"][prim.types[name]]
    plain = {"bool": bool, "float": float, "int": int, "str": str}
    if wanted in plain:
        fits, data = type(value) is plain[wanted], value
    else:
        fits = isinstance(value, Value) and value.kind == wanted
        data = value.data if fits else None
    if not fits:
        raise RefusedError(f"{prim.path}.{name} is a {prim.types[name]}: {type(value)}")
    prim.values[name] = data
    prim.writes.append((prim.path, name, data))
    return True


def _relate(prim, manifest, check, name, custom):
    return strict((prim, name), "Relationship", manifest, check)


METHODS = {
    ("Stage", "DefinePrim"): _define,
    ("Stage", "GetPrimAtPath"): lambda s, m, c, path: strict(s.prims[path], "Prim", m, c),
    ("Stage", "Traverse"): lambda s, m, c: list(s.prims),
    ("Prim", "IsValid"): lambda p, m, c: True,
    ("Prim", "CreateAttribute"): _create,
    ("Prim", "CreateRelationship"): _relate,
    ("Prim", "AddAppliedSchema"): lambda p, m, c, name: p.schemas.append(name) or True,
    ("Attribute", "Set"): _set,
    ("Attribute", "SetMetadata"): lambda a, m, c, key, value: a[0].metadata.update({(a[1], key): value}),
    ("Attribute", "SetConnections"): lambda a, m, c, paths: a[0].connections.update({a[1]: [p.data for p in paths]}),
    ("Relationship", "SetTargets"): lambda r, m, c, paths: r[0].targets.update({r[1]: [p.data for p in paths]}),
}


def names(manifest, check):
    """Every name of USD's manifest that works on an open stage -> what it does here."""

    def numbers(kind, count):
        def make(*values):
            check(kind)
            if len(values) != count or not all(type(v) is float for v in values):
                raise RefusedError(f"{kind} of {values}")
            return Value(kind, np.array(values))

        return make

    def array(kind, entry):
        def from_numpy(array):
            check(kind)
            fits = len(array.shape) == len(entry["shape"]) and all(
                w in (None, n) for n, w in zip(array.shape, entry["shape"], strict=True)
            )
            if str(array.dtype) != entry["dtype"] or not fits or not array.flags.c_contiguous:
                raise RefusedError(f"{kind} of {array.dtype} {array.shape}")
            return Value(kind, array.copy())

        return from_numpy

    def axis(stage, axis):
        inside(stage).up = axis

    def metres(stage, value):
        inside(stage).metres = value

    entries = manifest["names"]
    value_types = {name: name for name in entries["pxr.Sdf:ValueTypeNames"]["members"]}
    return {
        "pxr.UsdGeom:SetStageUpAxis": axis,
        "pxr.UsdGeom:SetStageMetersPerUnit": metres,
        "pxr.Sdf:AssetPath": lambda path: Value("Sdf.AssetPath", str(path)),
        "pxr.Sdf:Path": lambda path: Value("Sdf.Path", str(path)),
        "pxr.Sdf:ValueTypeNames": types.SimpleNamespace(**value_types),
        "pxr.Gf:Quatd": numbers("Gf.Quatd", 4),
        "pxr.Gf:Vec2f": numbers("Gf.Vec2f", 2),
        "pxr.Gf:Vec3d": numbers("Gf.Vec3d", 3),
        "pxr.Gf:Vec3f": numbers("Gf.Vec3f", 3),
        "pxr.Vt:IntArray.FromNumpy": array("Vt.IntArray", entries["pxr.Vt:IntArray.FromNumpy"]),
        "pxr.Vt:Vec2fArray.FromNumpy": array("Vt.Vec2fArray", entries["pxr.Vt:Vec2fArray.FromNumpy"]),
        "pxr.Vt:Vec3fArray.FromNumpy": array("Vt.Vec3fArray", entries["pxr.Vt:Vec3fArray.FromNumpy"]),
        "pxr.Vt:TokenArray": lambda tokens: Value("Vt.TokenArray", [str(t) for t in tokens]),
        "pxr.Usd:Stage.CreateNew": _offline,
        "pxr.Usd:Stage.Open": _offline,
    }


def _offline(*arguments):
    raise RefusedError("files are converted offline, not by a running renderer")
