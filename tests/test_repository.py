"""The repository as a whole: packaging, limits that the style sets, and documents that must follow the code."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "replay", "actors", "learner", "cluster", "configs")
MAX_LINES = 350
# File -> why it may be longer.
LONG_FILES: dict[str, str] = {}


def tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so there is no list of files")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_holds_the_packages_and_their_data_and_nothing_else(tmp_path: Path) -> None:
    files = tracked()
    for path in files:
        copy = tmp_path / "source" / name_of(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "source", capture_output=True, check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {n for n in map(name_of, files) if n.startswith(tuple(f"{p}/" for p in PACKAGES)) and n.endswith(".py")}
    data = {n for n in map(name_of, files) if n.startswith("configs/") and n.endswith(".yaml")}
    assert "configs/experiment/quickstart.yaml" in data
    assert held >= wanted | data
    assert {name.split("/")[0] for name in held} == set(PACKAGES)


def test_every_dependency_is_pinned_within_its_bounds_and_comes_from_the_default_index() -> None:
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    pins = {re.sub(r"[-_.]+", "-", n).lower(): Version(v) for n, _, v in (x.partition("==") for x in lines) if v}
    table = project()["project"]
    assert isinstance(table, dict)
    extras = table["optional-dependencies"]
    asked = table["dependencies"] + extras["dev"] + extras["bench"] + extras["foundation"]
    for requirement in map(Requirement, asked):
        assert requirement.name.lower() in pins, f"constraints.txt has no pin for {requirement.name}"
        assert pins[requirement.name.lower()] in requirement.specifier, requirement.name
    assert pins["torch"] == Version("2.13.0")
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        assert not re.search(r"index-url|find-links|--index", (ROOT / name).read_text()), name


def test_no_paths_of_somebodys_machine() -> None:
    personal = re.compile(rb"/(?:home|Users)/[a-z]|/root/|/work/(?:main|shared)|[A-Z]:\\\\Users")
    found = [name_of(path) for path in tracked() if path != Path(__file__) and personal.search(path.read_bytes())]
    assert found == []


def test_files_stay_short() -> None:
    lengths = {name_of(p): p.read_bytes().count(b"\n") for p in tracked() if p.suffix == ".py"}
    too_long = {name: lines for name, lines in lengths.items() if lines > MAX_LINES and name not in LONG_FILES}
    assert too_long == {}
    assert set(LONG_FILES) <= set(lengths), "LONG_FILES names a file that is gone"


def test_every_module_says_what_it_is_for() -> None:
    modules = [path for path in tracked() if path.suffix == ".py" and name_of(path).split("/")[0] in PACKAGES]
    assert len(modules) > 10
    assert [name_of(path) for path in modules if not ast.get_docstring(ast.parse(path.read_bytes()))] == []


def test_links_in_documents_lead_somewhere() -> None:
    broken = []
    for path in tracked():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            file = target.partition("#")[0]
            if file and "://" not in target and not (path.parent / file).exists():
                broken.append(f"{name_of(path)}: {target}")
    assert broken == []


def test_documents_name_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"setup", "quickstart", "test", "lint", "bench", "clean", "help"} <= targets
    named = {
        t
        for p in tracked()
        if p.suffix == ".md"
        for t in re.findall(r"\bmake ([a-z]+)\b(?=[`\s]*(?:[A-Z=#]|`|$))", p.read_text())
    }
    assert named - targets == set()


@pytest.mark.parametrize("name", ["configuration.md", "record.md"])
def test_generated_documents_are_up_to_date(name: str) -> None:
    pages: dict[str, Callable[[], str]] = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["PAGES"]
    assert (ROOT / "docs" / name).read_text() == pages[name](), f"docs/{name} is out of date: run make docs"
