"""That the wire is compatible with itself as it was released, and its generated code with the .proto file."""

import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, text_format

from common.proto import compatibility
from common.proto.compatibility import breaking_changes, described, released_path
from common.proto.servofleet.v1 import render_pb2

ROOT = Path(__file__).resolve().parents[3]
NAMES = [m.DESCRIPTOR.name for m in compatibility.MODULES]


def released():
    return text_format.Parse(released_path(render_pb2).read_text(), descriptor_pb2.FileDescriptorProto())


@pytest.mark.parametrize("module", compatibility.MODULES, ids=NAMES)
def test_nothing_released_was_broken_and_what_is_new_is_written_down(module) -> None:
    old = text_format.Parse(released_path(module).read_text(), descriptor_pb2.FileDescriptorProto())
    assert breaking_changes(old, described(module)) == []
    assert old == described(module), "run make proto"


@pytest.mark.parametrize("module", compatibility.MODULES, ids=NAMES)
def test_generated_code_is_that_of_the_proto_file(module, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    monkeypatch.chdir(ROOT)
    out = tmp_path / "set.pb"
    assert protoc.main(["protoc", "-I.", f"--descriptor_set_out={out}", module.DESCRIPTOR.name]) == 0
    found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]

    def plain(message):
        for field in message.field:
            field.ClearField("json_name")
        for nested in message.nested_type:
            plain(nested)

    for message in found.message_type:
        plain(message)
    assert found == described(module), "run make proto"


@pytest.mark.parametrize("module", compatibility.MODULES, ids=NAMES)
def test_generated_code_runs_on_old_protobuf_and_grpc(module) -> None:
    path = Path(module.__file__)
    stubs = path.with_name(path.stem + "_grpc.py").read_text()
    # Newer compilers put in checks that refuse any runtime older than themselves.
    assert "Protobuf Python Version: 4.25" in path.read_text()
    assert "runtime_version" not in path.read_text() and "GRPC_GENERATED_VERSION" not in stubs
    for service in described(module).service:
        found = set(re.findall(rf"'/{module.DESCRIPTOR.package}\.{service.name}/(\w+)'", stubs))
        assert found == {m.name for m in service.method}


def field_of(file, message, name):
    found = next(m for m in file.message_type if m.name == message)
    return found, next(f for f in found.field if f.name == name)


def renumber(file):
    field_of(file, "RenderRequest", "slot")[1].number = 9


def retype(file):
    field_of(file, "FrameHead", "bytes")[1].type = descriptor_pb2.FieldDescriptorProto.TYPE_UINT32


def rename(file):
    field_of(file, "FrameHead", "height")[1].name = "rows"


def single(file):
    field_of(file, "FrameHead", "frame_ids")[1].label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL


def remove(file):
    message, field = field_of(file, "Limits", "max_side")
    message.field.remove(field)


def remove_message(file):
    file.message_type.remove(next(m for m in file.message_type if m.name == "FrameEnd"))


def reorder_enum(file):
    channels = next(e for e in file.enum_type if e.name == "Channel")
    channels.value[1].number, channels.value[2].number = 2, 1


def remove_nested_value(file):
    health = next(m for m in file.message_type if m.name == "HealthResponse")
    del health.enum_type[0].value[3]


def change_stream(file):
    next(m for m in file.service[0].method if m.name == "Render").server_streaming = False


def leave_oneof(file):
    field_of(file, "Asset", "texels")[1].ClearField("oneof_index")


def move_package(file):
    file.package = "servofleet.v2"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (renumber, "RenderRequest: field slot = 8 is gone"),
        (retype, "FrameHead: field 7: type"),
        (rename, "FrameHead: field 4: name 'height' became 'rows'"),
        (single, "FrameHead: field 2: label"),
        (remove, "Limits: field max_side = 3 is gone and its number not reserved"),
        (remove_message, "message FrameEnd is gone"),
        (reorder_enum, "enum Channel: value 1"),
        (remove_nested_value, "enum HealthResponse.State: value STATE_DRAINING = 3 is gone"),
        (change_stream, "rpc RenderService.Render"),
        (leave_oneof, "Asset: field texels = 2 moved"),
        (move_package, "package servofleet.v1 became servofleet.v2"),
    ],
)
def test_a_breaking_change_is_named(change, said) -> None:
    new = released()
    change(new)
    assert any(said in line for line in breaking_changes(released(), new)), breaking_changes(released(), new)


def test_additions_are_fine_and_a_reserved_number_stays_reserved() -> None:
    new = released()
    message, field = field_of(new, "Limits", "max_side")
    message.field.remove(field)
    message.reserved_range.add(start=3, end=4)
    message.field.add(name="max_depth", number=99, type=field.type, label=field.label)
    new.message_type.add(name="Extra")
    assert breaking_changes(released(), new) == []
    again = descriptor_pb2.FileDescriptorProto()
    again.CopyFrom(new)
    used = next(m for m in again.message_type if m.name == "Limits")
    used.field.add(name="another", number=3, type=field.type, label=field.label)
    assert any("uses number 3, which is reserved" in line for line in breaking_changes(new, again))
    freed = descriptor_pb2.FileDescriptorProto()
    freed.CopyFrom(new)
    del next(m for m in freed.message_type if m.name == "Limits").reserved_range[:]
    assert any("not reserved any more" in line for line in breaking_changes(new, freed))


def test_the_released_file_is_only_written_where_nothing_breaks(tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path / "render.released.txtpb"
    old = released()
    field_of(old, "Limits", "max_side")[1].number = 77
    path.write_text(text_format.MessageToString(old))
    monkeypatch.setattr(compatibility, "released_path", lambda module: path)
    assert compatibility.main() == 1
    assert "Limits: field max_side = 77" in capsys.readouterr().err
    assert text_format.Parse(path.read_text(), descriptor_pb2.FileDescriptorProto()) == old
    message, field = field_of(old, "Limits", "max_side")
    message.field.remove(field)  # what is there now is an addition
    path.write_text(text_format.MessageToString(old))
    assert compatibility.main() == 0
    assert text_format.Parse(path.read_text(), descriptor_pb2.FileDescriptorProto()) == described(render_pb2)
