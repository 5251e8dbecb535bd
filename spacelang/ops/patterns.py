"""Patterns of einsum and rearrange: reading them and fitting them to operand types."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from spacelang.ir.conflict import shown
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.infer import Infer

Letters = tuple[str, ...]


@dataclass(frozen=True)
class Einsum:
    """Letters of each operand and of the result; `...` is one entry."""

    operands: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]


def _letters(text: str) -> tuple[str, ...]:
    marked = text.replace(" ", "").replace("...", ".")
    return tuple("..." if c == "." else c for c in marked)


def parse_einsum(infer: Infer) -> Einsum:
    """Read `ab,bc->ac`; errors are SP305."""
    text = infer.text("pattern")
    left, arrow, right = text.partition("->")
    if not arrow:
        infer.fail("SP305", f'the pattern "{text}" has no ->', hint='einsum("ab,bc->ac", x, y)')
    operands = tuple(_letters(part) for part in left.split(","))
    result = _letters(right)
    for part in (*operands, result):
        if any(c != "..." and not c.isalpha() for c in part) or part.count("...") > 1:
            infer.fail("SP305", f'the pattern "{text}" is no list of letters')
        if len({c for c in part if c != "..."}) < len([c for c in part if c != "..."]):
            infer.fail("SP305", f'a letter stands twice in one operand of "{text}"')
    known = {c for part in operands for c in part}
    unknown = [c for c in result if c not in known]
    if unknown:
        infer.fail("SP305", f'{unknown[0]} of the result of "{text}" is in no operand')
    return Einsum(operands, result)


def letters(pattern: str, *ranks: int) -> tuple[Letters, ...]:
    """The letters of each operand, of so many axes, and of the result; the ellipsis is spread over
    letters of its own."""
    left, _, out = pattern.replace(" ", "").partition("->")
    parts = left.split(",")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in pattern]
    counts = [rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True)]
    most = max(counts)

    def spelled(part: str, count: int) -> Letters:
        before, mark, after = part.partition("...")
        return (*before, *(spare[most - count : most] if mark else ()), *after)

    given = (spelled(part, count) for part, count in zip(parts, counts, strict=True))
    return (*given, spelled(out, most))


def bind_einsum(infer: Infer, pattern: Einsum) -> tuple[dict[str, Dim], list[Dim]]:
    """The size of each letter and the leading axes; sizes of one letter must agree (SP305)."""
    text = infer.text("pattern")
    if len(pattern.operands) != len(infer.types):
        infer.fail(
            "SP305",
            f'the pattern "{text}" has {len(pattern.operands)} operands, {len(infer.types)} given',
        )
    sizes: dict[str, Dim] = {}
    leading: list[Dim] | None = None
    for number, (letters, shape) in enumerate(zip(pattern.operands, infer.types, strict=True), 1):
        spread = shape.rank - len(letters) + 1 if "..." in letters else 0
        if spread < 0 or ("..." not in letters and len(letters) != shape.rank):
            infer.fail(
                "SP301",
                f'operand {number} of "{text}" has {shape.rank} axes',
                note=f"it is {shown(shape)}",
            )
        axis = 0
        for letter in letters:
            if letter == "...":
                here = list(shape.shape[axis : axis + spread])
                axis += spread
                if leading is None:
                    leading = here
                elif len(leading) != len(here):
                    infer.fail("SP301", f'"..." of "{text}" stands for axes of different number')
                for a, b in zip(leading, here, strict=True):
                    infer.need_equal(a, b, "SP305", f'an axis of "..." in "{text}" differs')
                continue
            size = shape.shape[axis]
            axis += 1
            if letter in sizes:
                infer.need_equal(
                    sizes[letter], size, "SP305", f'the size of {letter} in "{text}" differs'
                )
            sizes.setdefault(letter, size)
    return sizes, leading or []


Group = tuple[str, ...]


@dataclass(frozen=True)
class Rearrange:
    """Groups of names on both sides: `b (h p) c` is (b,), (h, p), (c,)."""

    left: tuple[Group, ...]
    right: tuple[Group, ...]


def _groups(infer: Infer, text: str, side: str) -> tuple[Group, ...]:
    found: list[Group] = []
    group: list[str] | None = None
    for word in side.replace("(", " ( ").replace(")", " ) ").split():
        if word == "(":
            if group is not None:
                infer.fail("SP305", f'brackets inside brackets in "{text}"')
            group = []
        elif word == ")":
            if group is None:
                infer.fail("SP305", f'a bracket too many in "{text}"')
            found.append(tuple(group))
            group = None
        elif not (word.isidentifier() or word == "1" or word == "..."):
            infer.fail("SP305", f'{word} in "{text}" is no name')
        elif group is not None:
            group.append(word)
        else:
            found.append((word,))
    if group is not None:
        infer.fail("SP305", f'a bracket too few in "{text}"')
    return tuple(found)


def parse_rearrange(infer: Infer) -> Rearrange:
    """Read `b (h p) c -> b h (p c)`; every name stands once on each side (SP305)."""
    text = infer.text("pattern")
    left, arrow, right = text.partition("->")
    if not arrow:
        infer.fail(
            "SP305", f'the pattern "{text}" has no ->', hint='rearrange(x, "b c h w -> b h w c")'
        )
    sides = Rearrange(_groups(infer, text, left), _groups(infer, text, right))
    names = [[n for g in side for n in g if n != "1"] for side in (sides.left, sides.right)]
    for side in names:
        twice = next((n for n in side if side.count(n) > 1), None)
        if twice is not None:
            infer.fail("SP305", f'{twice} stands twice on one side of "{text}"')
    odd = set(names[0]) ^ set(names[1])
    if odd:
        infer.fail("SP305", f'{sorted(odd)[0]} stands on one side only of "{text}"')
    return sides


def bind_rearrange(infer: Infer, sides: Rearrange) -> tuple[dict[str, Dim], list[Dim]]:
    """The size of each name, and the axes of `...`; a group splits its axis exactly (SP305)."""
    text, x = infer.text("pattern"), infer.x
    given = infer.options["sizes"]
    known = {
        str(entry[0]): entry[1]
        for entry in (given if isinstance(given, tuple) else ())
        if isinstance(entry, tuple) and isinstance(entry[1], Dim)
    }
    for name in known:
        if not any(name in group for group in sides.left):
            infer.fail("SP204", f'{name} is not in the pattern "{text}"')
    spread = x.rank - len(sides.left) + 1 if ("...",) in sides.left else 0
    if spread < 0 or (("...",) not in sides.left and len(sides.left) != x.rank):
        infer.fail(
            "SP301",
            f'"{text}" reads {len(sides.left)} axes of a tensor of {x.rank}',
            f"it is {shown(x)}",
        )
    sizes: dict[str, Dim] = {}
    leading: list[Dim] = []
    axis = 0
    for group in sides.left:
        if group == ("...",):
            leading = list(x.shape[axis : axis + spread])
            axis += spread
            continue
        whole = x.shape[axis]
        axis += 1
        unknown = [name for name in group if name not in known and name != "1"]
        if len(unknown) > 1:
            infer.fail(
                "SP305",
                f'sizes of {" and ".join(unknown)} in "{text}" are open',
                hint=f"give {unknown[-1]}: ..",
            )
        rest = prod((known[n] for n in group if n in known), start=ONE)
        if unknown:
            size = whole / rest
            infer.need_whole(size, f'{unknown[0]} in "{text}"')
            sizes[unknown[0]] = size
        else:
            wrong = f'({" ".join(group)}) in "{text}" is not its axis'
            infer.need_equal(whole, rest, "SP305", wrong)
        sizes.update({n: known[n] for n in group if n in known})
    return sizes, leading
