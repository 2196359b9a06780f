"""What may change in a released .proto file: things are added, and nothing that was there is moved or used again.

`python -m common.proto.compatibility` compares each generated module with the `.released.txtpb` beside it, says what
breaks and ends with 1, or writes the additions into the released file. `make proto` runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, text_format

from common.proto.servofleet.v1 import render_pb2

MODULES = (render_pb2,)
_FIELD = ("name", "type", "label", "type_name")  # `proto3_optional` and oneofs are compared below


def released_path(module: Any) -> Path:
    """The released file of a generated module."""
    path = Path(module.__file__)
    return path.with_name(path.stem.removesuffix("_pb2") + ".released.txtpb")


def described(module: Any) -> descriptor_pb2.FileDescriptorProto:
    """The description that a generated module carries."""
    return descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)


def breaking_changes(old: descriptor_pb2.FileDescriptorProto, new: descriptor_pb2.FileDescriptorProto) -> list[str]:
    """One line for everything of `old` that a program built with it would misread in `new`."""
    out = [] if old.package == new.package else [f"package {old.package} became {new.package}"]
    out += _messages(_by_name(old.message_type), _by_name(new.message_type), "")
    out += _enums(_by_name(old.enum_type), _by_name(new.enum_type), "")
    services = _by_name(new.service)
    for service in old.service:
        methods = _by_name(services[service.name].method) if service.name in services else {}
        for method in service.method:
            if methods.get(method.name) != method:
                out.append(f"rpc {service.name}.{method.name} is gone or takes or answers something else")
    return out


def _messages(old: Mapping[str, Any], new: Mapping[str, Any], within: str) -> Iterator[str]:
    for name, was in old.items():
        what = f"message {within}{name}"
        if name not in new:
            yield f"{what} is gone"
            continue
        now = new[name]
        fields = {f.number: f for f in now.field}
        for field in was.field:
            yield from _field(what, was, field, now, fields.get(field.number))
        for number, taken in fields.items():
            if _reserved(was, number, inclusive=False):
                yield f"{what}: field {taken.name} uses number {number}, which is reserved"
        for kept in was.reserved_range:
            if not all(_reserved(now, number, inclusive=False) for number in range(kept.start, kept.end)):
                yield f"{what}: numbers {kept.start} .. {kept.end - 1} are not reserved any more"
        yield from _messages(_by_name(was.nested_type), _by_name(now.nested_type), f"{within}{name}.")
        yield from _enums(_by_name(was.enum_type), _by_name(now.enum_type), f"{within}{name}.")


def _field(what: str, was: Any, field: Any, now: Any, found: Any) -> Iterator[str]:
    if found is None:
        if not _reserved(now, field.number, inclusive=False):
            yield f"{what}: field {field.name} = {field.number} is gone and its number not reserved"
        return
    for attribute in _FIELD:
        before, after = getattr(field, attribute), getattr(found, attribute)
        if before != after:
            yield f"{what}: field {field.number}: {attribute} {before!r} became {after!r}"
    if _oneof(was, field) != _oneof(now, found):
        yield f"{what}: field {field.name} = {field.number} moved into or out of a oneof"


def _enums(old: Mapping[str, Any], new: Mapping[str, Any], within: str) -> Iterator[str]:
    for name, was in old.items():
        what = f"enum {within}{name}"
        if name not in new:
            yield f"{what} is gone"
            continue
        values = {v.number: v.name for v in new[name].value}
        for value in was.value:
            if value.number not in values and not _reserved(new[name], value.number, inclusive=True):
                yield f"{what}: value {value.name} = {value.number} is gone and its number not reserved"
            elif values.get(value.number, value.name) != value.name:
                yield f"{what}: value {value.number}: {value.name} became {values[value.number]}"
        for number, taken in values.items():
            if _reserved(was, number, inclusive=True):
                yield f"{what}: value {taken} uses number {number}, which is reserved"


def _by_name(things: Sequence[Any]) -> dict[str, Any]:
    return {t.name: t for t in things}


def _reserved(thing: Any, number: int, *, inclusive: bool) -> bool:
    """Whether a number is reserved; protobuf counts the end of a range in for enums, and not for messages."""
    return any(r.start <= number < r.end + inclusive for r in thing.reserved_range)


def _oneof(message: Any, field: Any) -> str:
    return str(message.oneof_decl[field.oneof_index].name) if field.HasField("oneof_index") else ""


def main() -> int:
    """Compare and write; the exit code."""
    for module in MODULES:
        path, new = released_path(module), described(module)
        if path.exists():
            old = text_format.Parse(path.read_text(), descriptor_pb2.FileDescriptorProto())
            broken = breaking_changes(old, new)
            if broken:
                print(
                    "\n".join([f"{path.name}: a change breaks programs that are out there:", *broken]), file=sys.stderr
                )
                return 1
        path.write_text(text_format.MessageToString(new))
    return 0


if __name__ == "__main__":
    sys.exit(main())
