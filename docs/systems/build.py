"""Figures, pictures and files of the pages in this folder.

python docs/systems/build.py             # rewrites the marked parts, and the pictures
python docs/systems/build.py --check     # writes nothing; exit 1 where something is out of date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from spacelang.analysis.conventions import CONVENTIONS, counted  # noqa: E402
from spacelang.analysis.extent import extent  # noqa: E402
from spacelang.cli.drawing import sketch, svg  # noqa: E402
from spacelang.diagnostics import SpaceError  # noqa: E402
from spacelang.files import atomic_write  # noqa: E402
from spacelang.ir.dim import Value  # noqa: E402
from spacelang.ir.graph import Graph  # noqa: E402
from spacelang.loader import load  # noqa: E402

HERE = Path(__file__).resolve().parent
FIGURES: Mapping[str, Mapping[str, int | str]] = json.loads(
    (ROOT / "tests" / "golden" / "figures.json").read_text(encoding="utf-8")
)
BEGIN, END = "<!-- made by docs/systems/build.py -->\n", "<!-- end -->\n"


@dataclass(frozen=True, slots=True)
class System:
    """A page: its file, the space in its picture, its searchable spaces, its fixed networks beside
    those of the golden figures, and the convention of the publication."""

    drawn: str
    searched: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    convention: str = ""
    block: str = ""  # what of the space is drawn, if not the whole network


SYSTEMS: Mapping[str, System] = {
    "autoformer": System(
        "autoformer_t",
        ("autoformer_t", "autoformer_t_yaml", "autoformer_s", "autoformer_b"),
        ("autoformer_b_subnet",),
        "autoformer",
    ),
    "s3": System("s3_start", ("s3_start",), ("s3_s",), "swin"),
    "cream": System("cream", ("cream",), ("cream_287m", "cream_604m"), "cream"),
    "cdarts": System("cifar10", ("cifar10", "imagenet"), (), "thop"),
    "minivit": System("mini_swin_t", (), ("mini_deit_s", "mini_swin_s"), "fvcore"),
    "tinyvit": System("tinyvit_5m", ("tinyvit_contraction",), ("tinyvit_21m_512",), "fvcore"),
    "efficientvit": System(
        "efficientvit_m0",
        ("efficientvit_search",),
        ("efficientvit_m1", "efficientvit_m4"),
        "efficientvit",
    ),
    "irpe": System("deit_ti_product_k", (), ("deit_s_product_qk",), "fvcore", "attention"),
    "mobilenetv3": System(
        "mobilenetv3_search",
        ("mobilenetv3_search",),
        ("mobilenetv3_large", "mobilenetv3_small"),
    ),
    "deit": System("deit_ti", (), ("deit_b_384",), "fvcore"),
    "swin": System("swin_t", (), ("swin_b_384",), "swin"),
}


def picture(name: str) -> str:
    """The drawing of a system: what `spacelang show --as svg` gives."""
    system = SYSTEMS[name]
    return svg(sketch(load(f"{name}.space:{system.drawn}"), system.block))


def page(name: str, text: str) -> str:
    """A page with its marked part made anew."""
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"{name}.md has no part between {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{''.join(_parts(name))}{END}{after}"


def _parts(name: str) -> Iterator[str]:
    system = SYSTEMS[name]
    yield "\n## Figures\n\n"
    if system.searched:
        yield "| space | architectures | decisions | parameters kept | params of a network |\n"
        yield "|---|---|---|---|---|\n"
        yield from (_searched(f"{name}.space:{space}") for space in system.searched)
        yield "\n"
    networks = [
        address.partition(":")[2]
        for address, figures in FIGURES.items()
        if address.startswith(f"{name}.space:") and "params" in figures
    ]
    other = f" | MACs by `{system.convention}`" if system.convention else ""
    if networks or system.others:
        yield f"| network | params | MACs{other} |\n|---|---|---{'|---' if other else ''}|\n"
        for network in (*networks, *system.others):
            yield _network(f"{name}.space:{network}", system.convention)
    if system.convention:
        about = CONVENTIONS[system.convention].about
        yield f"\nThe convention `{system.convention}`: {about}.\n"
    part = f"The block `{system.block}` of" if system.block else "The graph of"
    yield f"\n## {part} `{system.drawn}`\n\n![{system.drawn}]({name}.svg)\n\n"
    yield f"## The file\n\n[`spaces/{name}.space`](../../spaces/{name}.space)\n\n```text\n"
    yield (ROOT / "spaces" / f"{name}.space").read_text(encoding="utf-8").rstrip() + "\n```\n"


def _searched(address: str) -> str:
    graph = load(address)
    reach = extent(graph)
    size = f"{reach.size:,}" if isinstance(reach.size, int) else "see `spacelang count`"
    kept = sum(s.numel for s in graph.storages.values() if s.param.role == "weight")
    low, high = reach.params
    ends = f"{low:,} to {high:,}"
    return f"| `{graph.name}` | {size} | {len(graph.decisions)} | {kept:,} | {ends} |\n"


def _network(address: str, convention: str) -> str:
    graph: Graph = load(address)
    values = graph.decisions.check({})
    cost = graph.cost()
    golden = FIGURES.get(address, {})
    for figure in ("params", "macs"):
        if golden.get(figure, getattr(cost, figure)) != getattr(cost, figure):
            raise ValueError(f"{address}: {figure} is not the golden figure")
    more = f" | {_counted(graph, values, convention)}" if convention else ""
    return f"| `{graph.name}` | {cost.params:,} | {cost.macs:,}{more} |\n"


def _counted(graph: Graph, values: Mapping[str, Value], convention: str) -> str:
    try:
        return f"{counted(graph, values, convention):,}"
    except SpaceError:
        return "-"


def files() -> Iterator[tuple[Path, str]]:
    """Every file that is made, and what has to stand in it."""
    for name in SYSTEMS:
        path = HERE / f"{name}.md"
        yield path, page(name, path.read_text(encoding="utf-8"))
        yield HERE / f"{name}.svg", picture(name)


def main() -> int:
    stale: list[Path] = []
    for path, text in files():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if "--check" not in sys.argv[1:]:
                atomic_write(path, text)
    for path in stale:
        print(path.relative_to(ROOT))
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
