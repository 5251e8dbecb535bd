"""Wheel, sdist and editable install hold all of the package, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from spacelang import extras

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAPPED = ("backends", "grammars", "spaces")
TOP = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml")
# A file that only an installed package can read, and one that only a fresh import can find.
PROBE = """
import importlib.resources, sys
import spacelang, spacelang.backends, spacelang.grammars, spacelang.spaces
for package, name in (("grammars", "space.lark"), ("spaces", "autoformer.space")):
    text = importlib.resources.files(f"spacelang.{package}").joinpath(name).read_text("utf-8")
    assert text.strip(), name
assert importlib.resources.files("spacelang").joinpath("py.typed").is_file()
print(spacelang.__version__, spacelang.__file__)
"""


def files_below(folder: Path) -> set[str]:
    """Relative names of the files of a package folder; links and caches left out."""
    names: set[str] = set()
    for directory, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        names |= {(Path(directory) / name).relative_to(folder).as_posix() for name in files}
    return names


def python(*arguments: str | Path, cwd: Path, program: str | Path = sys.executable) -> str:
    """Run Python outside the checkout, without the paths of this process; its output."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(word) for word in (program, *arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, tree: Path, target: Path) -> Path:
    """Call one hook of the build backend, as pip does, with the setuptools that is installed."""
    target.mkdir()
    call = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    python("-c", call, cwd=tree)
    (made,) = target.iterdir()
    return made


def install(wheel: Path, folder: Path) -> Path:
    """A bare virtual environment with this wheel alone; its interpreter."""
    venv.create(folder, with_pip=False)
    interpreter = folder / "bin" / "python"
    pip = ("-m", "pip", "--python", interpreter, "--disable-pip-version-check")
    python(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    return interpreter


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, so that none leaves anything in the checkout."""
    copy = tmp_path_factory.mktemp("packaging") / "tree"
    copy.mkdir()
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("spacelang", *MAPPED):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=skip)
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=skip)
    for name in TOP:
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def expected(tree: Path) -> set[str]:
    """Every file of the four folders, by its name in the package."""
    found = {f"spacelang/{name}" for name in files_below(tree / "spacelang")}
    return found | {f"spacelang/{top}/{name}" for top in MAPPED for name in files_below(tree / top)}


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    return build("sdist", tree, tree.parent / "sdist")


@pytest.fixture(scope="module")
def wheel(tree: Path, sdist: Path) -> Path:
    """The wheel as the package index makes it: from the sdist."""
    return build("wheel", unpack(sdist, tree.parent / "unpacked"), tree.parent / "wheel")


def test_configuration_names_every_package(tree: Path, expected: set[str]) -> None:
    with_code = {PurePosixPath(name).parent for name in expected if name.endswith(".py")}
    assert sorted(".".join(folder.parts) for folder in with_code) == sorted(
        PROJECT["tool"]["setuptools"]["packages"]
    )
    folders = {path for path in (tree / "spacelang").iterdir() if path.is_dir()}
    core = {f"spacelang/{path.name}" for path in folders if not path.is_symlink()}
    assert core <= set(PROJECT["tool"]["pyright"]["strict"]), "the core is checked strictly"
    links = {f"spacelang/{path.name}" for path in folders if path.is_symlink()}
    assert links == {f"spacelang/{name}" for name in MAPPED}
    assert links <= set(PROJECT["tool"]["pyright"]["include"]), "pyright follows no links"


def test_wheel_holds_the_package_and_nothing_else(wheel: Path, expected: set[str]) -> None:
    assert names(wheel) == expected
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    assert "Name: spacelang-nas" in lines
    assert {"License-Expression: Apache-2.0", "License-File: LICENSE"} <= set(lines)


def test_wheel_does_not_need_the_links(tree: Path, wheel: Path, tmp_path: Path) -> None:
    """Tools that drop links leave text files or nothing in their place."""
    shutil.copytree(tree, tmp_path / "tree", symlinks=True)
    for name in MAPPED:
        (tmp_path / "tree" / "spacelang" / name).unlink()
    (tmp_path / "tree" / "spacelang" / MAPPED[0]).write_text(f"../{MAPPED[0]}")
    assert names(build("wheel", tmp_path / "tree", tmp_path / "wheel")) == names(wheel)


def test_sdist_holds_the_sources_and_nothing_else(sdist: Path, expected: set[str]) -> None:
    with tarfile.open(sdist) as archive:
        found = {member.name.partition("/")[2] for member in archive if not member.isdir()}
    generated = {name for name in found if name.startswith("spacelang_nas.egg-info/")}
    sources = {
        name.removeprefix("spacelang/") if name.split("/")[1] in MAPPED else name
        for name in expected
    }
    assert found - generated == sources | {*TOP, "PKG-INFO", "setup.cfg"}


def test_installed_wheel_imports_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    interpreter = install(wheel, tmp_path / "environment")
    version, file = python("-c", PROBE, cwd=tmp_path, program=interpreter).split()
    assert wheel.name.startswith(f"spacelang_nas-{version}-")
    assert Path(file).is_relative_to(tmp_path / "environment")
    assert (interpreter.parent / "spacelang").is_file(), "the command is installed"


def test_editable_install_follows_the_checkout(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "tree", symlinks=True)
    editable = build("editable", tmp_path / "tree", tmp_path / "editable")
    interpreter = install(editable, tmp_path / "environment")
    _, file = python("-c", PROBE, cwd=tmp_path, program=interpreter).split()
    assert Path(file) == tmp_path / "tree" / "spacelang" / "__init__.py"
    for top in ("spacelang", *MAPPED):
        (tmp_path / "tree" / top / "added_later.py").write_text("VALUE = 1\n")
        package = top if top == "spacelang" else f"spacelang.{top}"
        python("-c", f"import {package}.added_later", cwd=tmp_path, program=interpreter)


def test_linked_packages_have_one_name(root: Path, fresh_python: Callable[..., str]) -> None:
    for name in MAPPED:
        assert (root / "spacelang" / name).readlink() == Path("..", name)
        program = f"try:\n import {name}\nexcept ImportError as error: print(error)"
        assert f"spacelang.{name}" in fresh_python("-c", program)
    assert fresh_python("-c", PROBE).split()[1] == str(root / "spacelang" / "__init__.py")


@pytest.mark.parametrize("left", ["text", "nothing"])
def test_a_checkout_without_its_links_says_so(tree: Path, tmp_path: Path, left: str) -> None:
    shutil.copytree(tree / "spacelang", tmp_path / "spacelang", symlinks=True)
    for name in MAPPED:
        (tmp_path / "spacelang" / name).unlink()
        if left == "text":
            (tmp_path / "spacelang" / name).write_text(f"../{name}")
    program = "try:\n import spacelang\nexcept ImportError as error: print(error)"
    told = python("-c", program, cwd=tmp_path)
    assert "has lost its links" in told
    assert "pip install ." in told


def test_hints_name_what_the_extras_need() -> None:
    """And none names the package itself, which is installed from a clone."""
    given = {
        extra: tuple(needed.partition(";")[0].strip() for needed in listed)
        for extra, listed in PROJECT["project"]["optional-dependencies"].items()
        if extra != "dev"
    }
    assert given == extras.PACKAGES
    told = extras.install("export")
    assert told == "pip install 'onnx>=1.17' 'onnxscript>=0.5' 'onnxruntime>=1.20'"
    sources = [*ROOT.glob("spacelang/**/*.py"), *ROOT.glob("backends/**/*.py")]
    assert len(sources) > 300
    named = [file.name for file in sources if "spacelang-nas[" in file.read_text("utf-8")]
    assert named == []


# Versions: pyproject.toml says what is allowed, requirements/ what is tried.


def pinned(name: str) -> dict[str, str]:
    """Package -> version of a file of requirements; everything in it is pinned."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(row) == 2 for row in rows), name
    return {package.partition("[")[0]: version for package, version in rows}


def test_pins_are_within_what_the_project_allows() -> None:
    declared = [*PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        declared += extra
    floors: dict[str, str] = {}
    for text in declared:
        package, _, floor = text.partition(";")[0].strip().partition(">=")
        floors[package.partition("[")[0]] = floor
    for name in ("quickstart.txt", "test.txt"):
        for package, version in pinned(name).items():
            assert package in floors, f"{package} of {name} is declared nowhere"
            if floors[package]:
                assert numbers(version) >= numbers(floors[package]), (name, package)


def test_the_manual_lists_the_extras() -> None:
    manual = (ROOT / "docs" / "cli.md").read_text("utf-8").partition("**Extras.**")[2]
    listed = re.findall(r"^\| `(\w+)` \|", manual.partition("Shell completion")[0], re.M)
    assert {*listed, "dev"} == set(PROJECT["project"]["optional-dependencies"])


def test_both_environments_pin_the_same_but_torch() -> None:
    quickstart, test = pinned("quickstart.txt"), pinned("test.txt")
    assert {p: v for p, v in quickstart.items() if p != "torch"}.items() <= test.items()
    # Two releases on purpose: what is trained and exported must not hang on one of them.
    assert numbers(quickstart["torch"]) < numbers(test["torch"])


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
