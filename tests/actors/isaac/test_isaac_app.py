"""Starting: what is refused before Isaac Sim is touched, in which order it is touched, and how the fake refuses."""

import ast
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import actors.isaac
from actors.isaac import version
from actors.isaac.api import Api, Usd, load_manifest
from actors.isaac.app import AppConfig, start
from actors.isaac.version import IsaacError
from tests.actors.isaac import fake_usd
from tests.actors.isaac.fake_usd import RefusedError
from tests.actors.isaac.isaac_fake import install

FOLDER = Path(actors.isaac.__file__).parent
MANIFESTS = ("5_1", "6_0")


def go(tmp_path, **settings):
    return start(AppConfig(tmp_path / "kit", **settings))


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_it_starts_with_clean_arguments_and_the_manifests_settings_and_ends_last(monkeypatch, tmp_path, manifest):
    fake = install(monkeypatch, manifest, tmp_path)
    app = go(tmp_path, cpu_threads=3)
    assert sys.argv == ["pytest", "--portable-root", str(tmp_path / "kit")]
    assert fake.launch["limit_cpu_threads"] == 3 and fake.launch["multi_gpu"] is False
    assert fake.launch["renderer"] == {"5_1": "RaytracedLighting", "6_0": "RealTimePathTracing"}[manifest]
    assert fake.settings == load_manifest(manifest)["settings"] and app.version.startswith(manifest[0])
    app.update()
    app.close()
    assert fake.closed and fake.updates == 1
    app.close()
    with pytest.raises(IsaacError, match="closed"):
        app.update()
    with pytest.raises(RefusedError, match="after close"):
        app.api.stage()


def test_a_process_starts_it_once_and_only_in_the_main_thread(monkeypatch, tmp_path):
    fake = install(monkeypatch, "5_1", tmp_path)
    said = []

    def elsewhere(call):
        def run():
            try:
                call()
            except IsaacError as e:
                said.append(str(e))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    elsewhere(lambda: go(tmp_path))
    assert "main thread" in said[0] and not fake.app_started
    app = go(tmp_path)
    elsewhere(app.update)
    assert "another thread" in said[1] and fake.updates == 0
    with pytest.raises(IsaacError, match="starts once"):
        go(tmp_path)


def test_nothing_of_it_may_be_imported_before(monkeypatch, tmp_path):
    fake = install(monkeypatch, "5_1", tmp_path)
    monkeypatch.setitem(sys.modules, "pxr.Usd", object())
    with pytest.raises(IsaacError, match=r"pxr\.Usd"):
        go(tmp_path)
    assert not fake.app_started
    with pytest.raises(RefusedError, match="before SimulationApp"):
        Api(load_manifest("5_1")).stage()
    with pytest.raises(RefusedError, match="before SimulationApp"):
        Usd().vec3d((0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.setenv("OMNI_KIT_ACCEPT_EULA", "no"), "OMNI_KIT_ACCEPT_EULA"),
        (lambda m: m.delenv("OMNI_KIT_ACCEPT_EULA"), "OMNI_KIT_ACCEPT_EULA"),
        (lambda m: m.setattr("actors.isaac.app.installed_version", lambda: "4.5.0"), "Isaac Sim version"),
        (lambda m: m.setitem(version.PYTHONS, "5_1", (3, 1)), "Python = "),
        (lambda m: m.setattr("actors.isaac.app.list_gpus", tuple), "lists none"),
        (lambda m: m.setattr("actors.isaac.app.list_gpus", lambda: (version.Gpu("NVIDIA H200", "580", 1),)), "H200"),
    ],
)
def test_a_machine_that_lacks_something_is_refused_before_isaac_is_touched(monkeypatch, tmp_path, change, said):
    fake = install(monkeypatch, "5_1", tmp_path)
    change(monkeypatch)
    with pytest.raises(IsaacError, match=said):
        go(tmp_path)
    assert not fake.app_started and sys.argv == ["pytest", "-q", "tests"]


def test_an_unsupported_gpu_starts_where_somebody_insists(monkeypatch, tmp_path):
    fake = install(monkeypatch, "5_1", tmp_path)
    monkeypatch.setattr("actors.isaac.app.list_gpus", lambda: (version.Gpu("NVIDIA A100-SXM4-80GB", "580", 1),))
    go(tmp_path, allow_unsupported_gpu=True)
    assert fake.app_started


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_name_that_a_version_lost_is_named_at_the_start(monkeypatch, tmp_path, manifest):
    gone = load_manifest(manifest)["labels"]["name"]
    install(monkeypatch, manifest, tmp_path, hidden=(gone,))
    with pytest.raises(IsaacError, match=gone):
        go(tmp_path)


def test_arguments_that_a_version_changed_are_named_at_the_start(monkeypatch, tmp_path):
    install(monkeypatch, "6_0", tmp_path)
    api = Api(load_manifest("6_0"))
    monkeypatch.setattr("actors.isaac.api.Api.name", lambda self, name: lambda prim, *, labels: None)
    with pytest.raises(IsaacError, match="not launch_config"):
        api.verify()


def test_the_fake_has_every_name_of_the_manifests_and_no_other(monkeypatch, tmp_path):
    both = {name for m in MANIFESTS for name in load_manifest(m)["names"]}
    fake = install(monkeypatch, "5_1", tmp_path)
    assert set(fake.names()) == both
    usd = load_manifest("5_1")["pxr"]
    assert set(fake_usd.names(usd, lambda what: None)) == set(usd["names"])
    assert set(usd["values"]) == set(usd["names"]["pxr.Sdf:ValueTypeNames"]["members"])
    app = go(tmp_path)
    stage = app.api.stage()
    assert (fake.stage.up, fake.stage.metres) == ("Z", 1.0)
    prim = stage.DefinePrim("/World", "Xform")
    for call, said in (
        (lambda: stage.RemovePrim("/World"), "no Stage.RemovePrim"),
        (lambda: stage.DefinePrim("/World", "Xform"), "twice"),
        (lambda: stage.DefinePrim("/a/b", "Xform"), "no parent"),
        (lambda: prim.CreateAttribute("size", "Double3", custom=False, extra=1), "does not take"),
        (lambda: prim.CreateAttribute("size", "Float", False).Set(1), "is a Float"),
        (lambda: app.api.name("omni.usd:get_context")(1), "does not take"),
        (lambda: app.api.tile(["/World"], (4, 4)), "before the renderer"),
        (lambda: app.api.usd.ints(__import__("numpy").zeros(3)), "float64"),
    ):
        with pytest.raises(RefusedError, match=said):
            call()
    with pytest.raises(IsaacError, match="not in the manifest"):
        app.api.name("omni.usd:attach_all")
    import omni.usd

    with pytest.raises(AttributeError, match="manifest"):
        omni.usd.attach_all  # noqa: B018


def test_only_one_file_reaches_isaac_and_none_imports_it():
    outside = ("isaacsim", "omni", "pxr", "carb", "warp", "torch", "ray")
    for file in FOLDER.glob("*.py"):
        tree = ast.parse(file.read_text())
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not {m for m in imported if m.split(".")[0] in outside}, file.name
        assert ("importlib" in imported) == (file.name == "api.py"), file.name


def test_the_manifests_name_nothing_that_is_not_used():
    source = "".join(file.read_text() for file in FOLDER.glob("*.py"))
    for manifest in MANIFESTS:
        found = load_manifest(manifest)
        named = {m for types in (found["types"], found["pxr"]["types"]) for kind in types.values() for m in kind}
        assert {m for m in named if f".{m}" not in source} == set()
        by_name = {*found["names"], *found["pxr"]["names"]} - {found["labels"]["name"], found["timeline"]}
        assert {n for n in by_name if f'"{n}"' not in source} == set()
        members = found["pxr"]["names"]["pxr.Sdf:ValueTypeNames"]["members"]
        assert {m for m in members if f'"{m}"' not in source} == set()


def test_every_name_says_where_it_was_read():
    for manifest in MANIFESTS:
        found = load_manifest(manifest)
        assert all(entry["mark"] for entry in (*found["names"].values(), *found["outputs"].values()))
        assert "not run" in found["source"] and "measured" in found["pxr"]["mark"]


def test_the_adapter_imports_on_any_machine_without_the_heavy_libraries():
    code = (
        "import sys, actors.isaac.renderer, actors.isaac.converted, actors.isaac.acceptance;"
        "print([m for m in ('torch', 'ray', 'mlflow', 'warp', 'trimesh', 'pxr', 'omni') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
