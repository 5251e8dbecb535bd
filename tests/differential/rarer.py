"""What programs from a number on hold besides: parts that are joined, tables, gathers, braces,
words that are paths, places of picks, sizes of grids.

Rows are like those of `branches.py`, statements like those of `blocks.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from differential.body import Body, Type
from differential.branches import Row, activation, branch

# Of any kind.


def braces(body: Body, x: str, t: Type) -> str:
    """Alternatives with statements of their own."""
    name, h = body.file.fresh("op"), body.file.fresh("h")
    one = branch(body, x, t, deeper=3)
    return (
        f"choose {name}{body.suffix} {{ a {{ {h} = {one}  return {activation(body)}({h}) }}"
        f"  b: {branch(body, x, t, deeper=3)} }}"
    )


def named(body: Body, x: str, t: Type) -> str:
    """A value with a label: a tap."""
    return f"({x} + {branch(body, x, t, deeper=3)}) as {body.label('mid')}"


def one_of(body: Body, x: str, t: Type) -> str:
    """A tensor by a condition, in an expression."""
    condition = body.condition()
    return f"({activation(body)}({x}) if {condition} else {branch(body, x, t, deeper=3)})"


# Of rows and tokens.


def joined(body: Body, x: str, t: Type) -> str:
    """A layer on parts of which one or two have a size that is decided."""
    parts = [f"linear({x}, {body.size(1).text}) as {body.label('part')}", x]
    if body.chance(0.3):
        parts.append(f"linear({x}, {body.size(1).text}, bias: false) as {body.label('part')}")
    made = f"concat([{', '.join(parts)}], axis: -1)"
    if body.chance(0.4):
        made += f" |> {activation(body)}"
    if body.chance(0.3):
        made += f" |> {body.rng.choice(['layer_norm', 'rms_norm'])} as {body.label('norm')}"
    return f"({made} |> linear({t.channels.text}) as {body.label('join')})"


def formula(body: Body, x: str, t: Type) -> str:
    """A constant that is computed from its indices, with the width in it."""
    c = t.channels.text
    if t.kind == "row":
        entry = body.rng.choice(["1 / (c + 1)", f"cos(c) / {c}", f"c % 2 + 1 / {c}"])
        return f"{x} + table([{c}]) |c| {{ return {entry} }}"
    entry = body.rng.choice(["sin(n + c)", f"n / {c}", "1 if c <= n else 0.5"])
    return f"{x} * table([{t.extent[0]}, {c}]) |n, c| {{ return {entry} }}"


def by_table(body: Body, x: str, t: Type) -> str:
    """Rows of a learned table by whole numbers that a formula gives."""
    entries = body.rng.choice([2, 3])
    index = f"table([{t.channels.text}], index: true) |c| {{ return min(c, {entries - 1}) }}"
    return f"{x} * take(parameter([{entries}]) as {body.label('rows')}, {index})"


# Of tokens.


def gathered(body: Body, x: str, t: Type) -> str:
    """Distances read and added up by an index."""
    n, s = t.extent[0], body.file.fresh("s")
    index = f"table([{n}, {n}], index: true) |i, j| {{ return min(abs(i - j), 1) }}"
    body.add(f"{s} = linear({x}, 2) as {body.label('near')}")
    scores = f"softmax(gather({s}, {index}))"
    if body.chance(0.5):
        scores = f"gather(bucket_sum({scores}, {index}, buckets: 2), {index})"
    return f'einsum("bij,bjc->bic", {scores}, {x})'


def positions(body: Body, x: str, t: Type) -> str:
    """Attention with a table of offsets whose reach is decided, stored in the middle."""
    reach, q, s = (body.file.fresh(n) for n in ("reach", "q", "s"))
    body.add(f"choose {reach}{body.suffix} in {{1, 2}}")
    body.file.rules.append(f"_.{reach}: entangle(band)")
    body.add(f"{q} = linear({x}, [2, 3]) as {body.label('q')}")
    table = f"take(parameter([2 * {reach} + 2, 3]) as {body.label('band')}, "
    table += f"clipped_index({t.side}, {t.side}, axis: 0, reach: {reach}, skip: {t.skip}))"
    body.add(f'{s} = einsum("bihd,bjhd->bhij", {q}, {q}) + einsum("bihd,ijd->bhij", {q}, {table})')
    mixed = f'einsum("bhij,bjhd->bihd", softmax({s}), {q})'
    return f"linear({mixed}, {t.channels.text}, axes: 2) as {body.label('proj')}"


# Of maps.


def joined_maps(body: Body, x: str, t: Type) -> str:
    made = f"concat([conv({x}, {body.size(1).text}) as {body.label('part')}, {x}], axis: 1)"
    if body.chance(0.5):
        made += f" |> batch_norm as {body.label('bn')}"
    return f"({made} |> {activation(body)} |> conv({t.channels.text}, 3) as {body.label('join')})"


def resolution(body: Body, x: str, t: Type) -> str:
    """A branch at a size of its own, which is decided."""
    side = body.file.fresh("side")
    body.add(f"choose {side}{body.suffix} in {{2, 4}}")
    h, w = t.extent
    made = f"resize({x}, [{side}, {side}]) |> conv({t.channels.text}, 3) as {body.label('at')}"
    return f"({made} |> resize([{h}, {w}]))"


RARER: dict[str, list[Row]] = {
    "row": [braces, named, one_of, joined, joined, formula, by_table],
    "tokens": [braces, named, one_of, joined, joined, formula, by_table, gathered],
    "map": [braces, named, one_of, joined_maps, joined_maps, resolution],
}
BINDING = {gathered, positions}


def rarer(body: Body, t: Type) -> list[Row]:
    """The rows that fit where a body stands."""
    rows = RARER[t.kind]
    if t.kind == "tokens" and t.side and not body.depth:
        rows = [*rows, positions, positions]
    return [row for row in rows if not (body.suffix and row in BINDING)]


# Statements.


def word_path(body: Body, t: Type) -> None:
    """One decision over words that steers two choices."""
    name = body.file.fresh("kind")
    body.add(f'choose {name}{body.suffix} in 1 of {{"one", "two", "three"}}')
    for _ in range(body.rng.choice([1, 2])):
        ways = [branch(body, "x", t, deeper=3) for _ in range(3)]
        heads = [f'{name} == "{word}"' for word in ("one", "two", "three")]
        pairs = zip(heads, ways, strict=True)
        body.add(" else ".join(f"when {head} {{ x = {way} }}" for head, way in pairs))


def chain(body: Body, t: Type) -> None:
    """Conditions that exclude each other and leave nothing out."""
    name = body.file.fresh("way")
    body.add(f"choose {name}{body.suffix} in {{1, 2, 3}}")
    ways = [branch(body, "x", t, deeper=3) for _ in range(3)]
    heads = [f"{name} == 1", f"{name} == 2", f"{name} == 3"]
    pairs = zip(heads, ways, strict=True)
    body.add(" else ".join(f"when {head} {{ x = {way} }}" for head, way in pairs))


def places(body: Body, t: Type) -> None:
    """What stands at the positions of a pick, told apart."""
    states, inputs = body.file.fresh("states"), body.file.fresh("inputs")
    body.add(f"{states} = [x, {activation(body)}(x), {branch(body, 'x', t, deeper=3)}]")
    body.add(f"choose {inputs}{body.suffix} in 2 of 3")
    body.add(f"x = {states}[{inputs}[0]] - {states}[{inputs}[1]] / 2")
    if body.chance(0.5):
        body.add(f"when {inputs}[1] == 2 {{ x = tanh(x) }}")


def known_number(body: Body, t: Type) -> None:
    """`let`, of numbers that are known and of some that are not."""
    size = body.size()
    name = body.file.fresh("n")
    body.add(f"let {name} = {size.text}")
    made = "conv" if t.kind == "map" else "linear"
    inner = f"{made}(x, {name}) as {body.label('inner')}"
    body.add(f"x = {inner} |> {made}({t.channels.text}) as {body.label('outer')}")


Statement = Callable[[Body, Type], None]
STATEMENTS: list[Statement] = [word_path, chain, places, known_number]
