"""Who may import whom: the rule of docs/architecture.md, read from the source and by a process."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import spacelang

PACKAGE = Path(__file__).resolve().parent.parent / "spacelang"
LINKS = ("backends", "grammars", "spaces")
BASE = {
    "collector",
    "diagnostics",
    "extras",
    "render",
    "plugins",
    "files",
    "journal",
    "manifest",
    "statistics",
}
CORE = {*BASE, "ir", "ops", "analysis"}
COMPILER = {*CORE, "syntax", "grammars", "passes", "engines", "spaces"}

# part -> the parts it may import; a part may always import itself.
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(BASE, BASE),
    "ir": BASE,
    "ops": {*BASE, "ir"},
    "analysis": {*BASE, "ir", "ops"},
    "grammars": BASE,
    "spaces": set(),
    "syntax": {*CORE, "grammars", "spaces", "passes"},
    "passes": CORE,
    "engines": {*BASE, "ir", "analysis"},
    "report": BASE,
    "explain": BASE,
    "bench": BASE,
    "loader": COMPILER,
    "build": {*COMPILER, "loader", "bridge", "term"},
    "bridge": {*COMPILER, "loader", "term"},
    "term": {*COMPILER, "loader", "bridge"},
    "checking": {*COMPILER, "loader"},
    "editor": {*COMPILER, "loader", "checking"},
    "cli": {*COMPILER, "loader", "report", "explain", "checking", "editor", "bench"},
    "backends": set(),
    "backends.onnx": {*COMPILER, "backends"},
    "backends.torch": {*COMPILER, "backends", "backends.onnx", "loader", "report"},
    "backends.triton": {*COMPILER, "backends", "backends.torch.storage"},
    "__init__": {
        *COMPILER,
        "loader",
        "build",
        "backends.torch.inference.deploy",
        "backends.torch.inference.deploy_folder",
        "backends.torch.weights",
    },
    "__main__": {"cli"},
}
# library -> the parts that may import it, even inside a function.
TORCH = {"backends.torch", "backends.triton"}
OWNERS = {
    "torch": TORCH,
    "torchvision": TORCH,
    "timm": TORCH,
    "safetensors.torch": TORCH,
    "triton": {"backends.triton"},
    "onnx": {"backends.onnx"},
    "onnxruntime": {"backends.onnx", "backends.torch"},
}
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "torch.save"}
HEAVY = ("torch", "numpy", "networkx")


def modules() -> dict[str, Path]:
    """Module name below `spacelang` -> file; a package is `NAME`, its root `__init__`."""
    found: dict[str, Path] = {}
    for base in (PACKAGE, *(PACKAGE / link for link in LINKS)):
        for file in sorted(base.rglob("*.py")):  # does not follow links: hence the list above
            parts = file.relative_to(PACKAGE).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"] = file
    return found


MODULES = modules()


def part_of(module: str) -> str:
    """The row of `ALLOWED` that rules a module."""
    words = module.split(".")
    return ".".join(words[:2] if words[0] == "backends" else words[:1])


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute names of all that is imported at any level, by statement or `import_module`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((name.name, node.lineno) for name in names)
            case ast.ImportFrom(module="spacelang", names=names, level=0):
                wanted = (name.name for name in names if name.name != "__version__")
                yield from ((f"spacelang.{name}", node.lineno) for name in wanted)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for name in names:
                    full = f"{module}.{name.name}"
                    known = full.removeprefix("spacelang.") in MODULES or full in OWNERS
                    yield full if known else module, node.lineno
            case ast.ImportFrom():
                yield "a relative import", node.lineno
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module, node.lineno
            case _:
                pass


def complaints(module: str, tree: ast.AST) -> Iterator[str]:
    """What a module does that the tables above do not allow."""
    part = part_of(module)
    allowed = {part, *ALLOWED[part]}
    for name, line in imports(tree):
        library, _, below = name.partition(".")
        if name == "a relative import" or library in FORBIDDEN_MODULES:
            yield f"{line}: {name}"
        elif library in LINKS:
            yield f"{line}: {library} is imported as spacelang.{library}"
        elif library == "spacelang" and not {below, part_of(below)} & allowed:
            yield f"{line}: {part} imports {below or 'the whole package'}"
        for owner, users in OWNERS.items():
            if f"{name}.".startswith(f"{owner}.") and part not in users:
                yield f"{line}: {part} imports {owner}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in FORBIDDEN_CALLS or given.get("allow_pickle") == "True":
            yield f"{node.lineno}: {called}"
        elif called == "torch.load" and given.get("weights_only") != "True":
            yield f"{node.lineno}: torch.load without weights_only=True"


def test_the_page_has_a_row_for_every_part() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    table = page.partition("| room | holds | may import |")[2].partition("\n\n")[0]
    rooms = "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))
    words = (word for quoted in re.findall(r"`([^`]*)`", rooms) for word in quoted.split())
    named = [word.rstrip("/").replace("/", ".") for word in words]
    assert sorted(named) == sorted(ALLOWED.keys() - {"backends", "__init__", "__main__"})


def rooms_of_torch() -> dict[str, set[str]]:
    """The second table of the page: room of `backends/torch` -> the rooms that it may import."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    table = page.partition("| room of `backends/torch` |")[2].partition("\n\n")[0]
    found: dict[str, set[str]] = {}
    for line in table.splitlines()[2:]:
        _, room, _, others, _ = line.split("|")
        found[room.strip(" `/")] = set(re.findall(r"`(\w+)`", others))
    return found


ROOMS = rooms_of_torch()


def room_of(module: str) -> str:
    """`here` for the files beside the rooms."""
    words = module.split(".")
    return words[2] if len(words) > 3 or (words[2:3] and words[2] in ROOMS) else "here"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("backends.torch.")])
def test_rooms_of_the_torch_backend_keep_their_layers(module: str) -> None:
    room = room_of(module)
    names = (name for name, _ in imports(ast.parse(MODULES[module].read_text("utf-8"))))
    inner = (name.removeprefix("spacelang.") for name in names)
    used = {room_of(name) for name in inner if name.startswith("backends.torch.")}
    assert used <= {room, *ROOMS[room]}


def test_each_room_of_the_torch_backend_is_a_package() -> None:
    assert set(MODULES) >= {f"backends.torch.{room}" for room in ROOMS if room != "here"}


def test_no_rooms_of_the_torch_backend_import_each_other() -> None:
    below: set[str] = set()
    waiting = dict(ROOMS)
    while ready := [room for room, others in waiting.items() if others <= below]:
        below |= set(ready)
        for room in ready:
            del waiting[room]
    assert waiting == {}


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_the_layering(module: str) -> None:
    assert part_of(module) in ALLOWED, "a new part of the package needs a row in ALLOWED"
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert list(complaints(module, tree)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ir.graph", "from spacelang.passes import base"),
        ("ir.graph", "def f():\n    import torch.nn"),
        ("ir.graph", "from torch import nn"),
        ("ir.graph", "from safetensors import torch"),
        ("ir.graph", "from spacelang import load"),
        ("cli.main", "import spacelang"),
        ("ops.linear", "import spacelang.analysis.cost"),
        ("passes.base", "from importlib import import_module\nimport_module('torch')"),
        ("passes.base", "from . import specialize"),
        ("cli.main", "from spacelang.backends.torch import lower"),
        ("backends.torch.lowering.lower", "import triton.language as tl"),
        ("backends.torch.lowering.lower", "from backends.torch import storage"),
        ("backends.torch.lowering.lower", "torch.load(path)"),
        ("backends.torch.lowering.lower", "torch.save(state, path)"),
        ("analysis.cost", "import pickle"),
        ("analysis.cost", "eval('1')"),
        ("analysis.cost", "np.load(path, allow_pickle=True)"),
    ],
)
def test_each_rule_can_be_broken(module: str, source: str) -> None:
    assert len(list(complaints(module, ast.parse(source)))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ir.graph", "import networkx\nfrom spacelang.diagnostics import SpaceError"),
        ("cli.main", "from spacelang import __version__\nfrom spacelang.loader import load"),
        (
            "backends.torch.lowering.lower",
            "import torch\nmodel.eval()\nfrom spacelang.ir.dim import Dim",
        ),
        ("backends.torch.lowering.lower", "from spacelang.backends.torch import storage"),
        ("backends.torch.lowering.lower", "torch.load(path, weights_only=True)"),
    ],
)
def test_what_the_rules_leave_free(module: str, source: str) -> None:
    assert list(complaints(module, ast.parse(source))) == []


def loaded(fresh_python: Callable[..., str], program: str, libraries: tuple[str, ...]) -> list[str]:
    """Which of the libraries a new process holds after a program."""
    tail = f"\nimport sys\nprint('', *set(sys.modules) & set({libraries}), sep='\\n')"
    output = fresh_python("-c", program + tail)
    return sorted(set(output.splitlines()) & set(libraries))


def test_importing_spacelang_is_light(fresh_python: Callable[..., str]) -> None:
    assert loaded(fresh_python, "import spacelang", (*HEAVY, "lark", "click", "rich")) == []
    assert loaded(fresh_python, "import spacelang, numpy", HEAVY) == ["numpy"]


PUBLIC = {name: home.partition(":")[0] for name, home in spacelang._HOMES.items()}


def test_public_names_are_listed() -> None:
    assert sorted(spacelang.__all__) == sorted([*PUBLIC, "__version__"])
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = spacelang.nothing


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_found_at_home(name: str) -> None:
    assert getattr(spacelang, name).__name__.rpartition(".")[2] == name


@pytest.mark.parametrize(
    "command", ["--help", "check FILE", "fmt --check FILE", "info FILE", "bench --list"]
)
def test_light_commands_import_no_heavy_library(
    command: str, fresh_python: Callable[..., str], root: Path
) -> None:
    arguments = command.replace("FILE", str(root / "spaces" / "autoformer.space")).split()
    program = f"""
import sys
from spacelang.cli.main import main
sys.argv = ["spacelang", *{arguments}]
try:
    main()
except SystemExit as end:
    if end.code:
        raise
"""
    assert loaded(fresh_python, program, HEAVY) == []
