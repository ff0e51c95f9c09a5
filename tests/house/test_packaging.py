"""The wheel holds what the package needs, and says what it needs."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from textdiff.networks.files import PACKAGED

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "textdiff"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | {"PIP_NO_INDEX": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile, name: str) -> email.message.Message:
    (path,) = (n for n in wheel.namelist() if n.endswith(f".dist-info/{name}"))
    return email.message_from_bytes(wheel.read(path))


def test_the_wheel_is_pure_python(wheel):
    assert Path(wheel.filename or "").name.endswith("-py3-none-any.whl")
    assert metadata(wheel, "WHEEL")["Root-Is-Purelib"] == "true"


def test_every_module_is_in_the_wheel(wheel):
    sources = {p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*.py")}
    assert sources <= set(wheel.namelist())


def test_types_readings_pages_and_models_are_in_the_wheel(wheel):
    names = set(wheel.namelist())
    assert {f"textdiff/{name}" for name in ("py.typed", "verse/readings.tsv", "show/animation.html")} <= names
    for path in PACKAGE.rglob("*"):
        parts = path.relative_to(PACKAGE).parts
        if path.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            name = path.relative_to(ROOT).as_posix()
            assert name in names
            assert wheel.getinfo(name).file_size == path.stat().st_size
    for model in PACKAGED:
        files = ("model.safetensors", "textdiff.json", "tokenizer.json")
        assert {f"textdiff/networks/{model}/{name}" for name in files} <= names
    assert Path(wheel.filename or "").stat().st_size < 40_000_000


def test_a_recipe_is_found_by_name_where_the_wheel_is_unpacked(wheel, tmp_path):
    wheel.extractall(tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()
    code = (
        "from textdiff.training import packaged; print(*packaged.names()); "
        "print(packaged.data('data/poems.jsonl')); print(packaged.find('quickstart'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    names, *files = done.stdout.splitlines()
    assert names.split() == sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    for path, original in zip(map(Path, files), ("data/poems.jsonl", "recipes/quickstart.yaml"), strict=True):
        assert path.is_relative_to(tmp_path / "installed")
        assert path.read_bytes() == (ROOT / original).read_bytes()


def test_nothing_else_is_in_the_wheel(wheel):
    strays = [n for n in wheel.namelist() if not n.startswith("textdiff/") and ".dist-info/" not in n]
    strays += [n for n in wheel.namelist() if n.endswith((".pyc", ".pkl", ".bin", ".pt"))]
    assert strays == []
    assert sum(info.file_size for info in wheel.infolist()) < 40 * 2**20


def test_the_metadata_has_lower_bounds_only(wheel):
    fields = metadata(wheel, "METADATA")
    assert fields["Requires-Python"] == ">=3.11"
    assert fields["License-Expression"] == "Apache-2.0"
    requirements = [Requirement(line) for line in fields.get_all("Requires-Dist", [])]
    assert requirements
    for requirement in requirements:
        assert requirement.url is None
        assert {specifier.operator for specifier in requirement.specifier} <= {">="}, str(requirement)


def test_the_licence_and_the_command_are_in_the_wheel(wheel):
    (licence,) = (n for n in wheel.namelist() if n.endswith("licenses/LICENSE"))
    assert "Apache License" in wheel.read(licence).decode()
    (points,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "textdiff = textdiff.cli:main" in wheel.read(points).decode()


def test_the_version_is_the_packages(wheel):
    import textdiff

    assert metadata(wheel, "METADATA")["Version"] == textdiff.__version__


def test_constraints_pin_every_dependency_above_its_lower_bound():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {}
    for line in lines:
        requirement = Requirement(line)  # a name and a version, no path, no host
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "+" not in specifier.version and requirement.url is None
        pins[canonicalize_name(requirement.name)] = specifier.version
    assert pins["torch"] == "2.13.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    for requirement in map(Requirement, wanted):
        if requirement.name != "textdiff":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
