"""Statements on one tensor `x` that keep its type, and the blocks made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from differential.body import BlockText, Body, Size, Type
from differential.branches import activation, branch, called

TYPES = {
    "row": Type("row", Size("C")),
    "tokens": Type("tokens", Size("C"), ("N",)),
    "map": Type("map", Size("C"), ("H", "W")),
}
PLAIN = {
    "row": "block plain_row(x: [B, C]) { return linear(x, C) as plain }",
    "tokens": "block plain_tokens(x: [B, N, C]) { return x + linear(x, C) as plain }",
    "map": "block plain_map(x: [B, C, H, W]) { return conv(x, C, 3) as plain |> batch_norm as own }",
}


def residual(body: Body, t: Type) -> None:
    made = branch(body, "x", t)
    body.add(f"x = {body.rng.choice(['x + ', 'x + ', ''])}({made})")


def dropped(body: Body, t: Type) -> None:
    body.add(f"x = x + drop_path({branch(body, 'x', t)}, {body.rate()})")


def loop(body: Body, t: Type) -> None:
    rng = body.rng
    i = body.file.fresh("i")
    inside = body.child(f"[{i}]")
    match rng.randrange(5):
        case 0 | 1:
            count = (
                rng.choice(body.counts)
                if body.counts and rng.random() < 0.4
                else body.choose_count()
            )
            head = f"for {i} in 0..<{count}"
        case 2:
            head = f"for {i} in 0..1"
        case 3:
            head = f"for {i} in reversed(0..<2)"
        case _:
            n = body.file.fresh("n")
            head = f"for {i}, {n} in enumerate([4, 8])"
            inside.sizes.append(Size(n))
    inside.rates.append(f"0.1 * {i}")
    inside.counts = []
    statements(inside, t, 2)
    body.add(f"{head} {{")
    body.lines += inside.lines
    body.add("}")


def optional(body: Body, t: Type) -> None:
    condition = body.condition()
    inside = body.child()
    statements(inside, t, 2)
    body.add(f"when {condition} {{")
    body.lines += inside.lines
    if body.chance(0.5):
        other = body.child()
        statements(other, t, 1)
        body.add("} else {")
        body.lines += other.lines
    body.add("}")


def one_label_twice(body: Body, t: Type) -> None:
    """Two readers of one parameter that exclude each other."""
    label, condition = body.label("both"), body.condition()
    word = "conv" if t.kind == "map" else "linear"
    tail = f"{t.channels.text}) as {label}"
    body.add(f"when {condition} {{ x = {word}(x, {tail} }} else {{ x = {word}(2 * x, {tail} }}")


def picks(body: Body, t: Type) -> None:
    """Two of several values, with an edge each."""
    states, inputs = body.file.fresh("states"), body.file.fresh("inputs")
    label = body.file.fresh("edge") + body.suffix + "[e]"
    items = ["x", f"{activation(body)}(x)", branch(body, "x", t)]
    items += [n for n, u in body.values if u == t][:1]
    items = items[: body.rng.choice([2, 3, 4])]
    count = body.rng.choice([1, 2]) if len(items) > 2 else 1
    body.add(f"{states} = [{', '.join(items)}]")
    body.add(f"choose {inputs}{body.suffix} in {count} of {states}")
    plain = f"plain_{t.kind}(value) as {label}"
    acts = body.rng.choice(["value", "relu(value) if source < 1 else value", "value * 2"])
    if acts != "value" and "if" not in acts:
        plain = f"plain_{t.kind}({acts}) as {label}"
    body.add(f"x = total({inputs}) |value, source, e| {{ return {plain} }}")


def masked(body: Body, t: Type) -> None:
    """A name that is `none` or a tensor, inside of a block of its own."""
    file = body.file
    name = file.fresh("masked")
    axes = "1, C, 1, 1" if t.kind == "map" else "C"
    file.items.append(
        f"block {name}(x: {TYPES[t.kind].shape}, more) {{\n  mask = none\n"
        f"  when more {{ mask = parameter([{axes}]) as mask }}\n"
        f"  x = {activation(body)}(x)\n  when mask != none {{ x = x + mask }}\n  return x\n}}"
    )
    body.add(f"x = {name}(x, {body.condition()}) as {body.label(name)}")


def known(body: Body, t: Type) -> None:
    """A block in which a decision must be one number."""
    name, label = body.file.fresh("apart"), body.file.fresh("head")
    axis = 1 if t.kind == "map" else -1
    made = "conv(p, C / heads, 3)" if t.kind == "map" else "linear(p, C / heads)"
    body.file.items.append(
        f"block {name}(x: {TYPES[t.kind].shape}) {{\n  choose heads in {{1, 2}}\n"
        f"  parts = split(x, heads, axis: {axis})\n"
        f"  return concat([{made} as {label}[j] for j, p in enumerate(parts)], axis: {axis})\n}}"
    )
    body.add(f"x = {name}(x) as {body.label(name)}")


def kept(body: Body, t: Type) -> None:
    """A value with a name, for later."""
    name = body.file.fresh("y")
    body.add(f"{name} = {branch(body, 'x', t)}")
    body.values.append((name, t))


def cell_twice(body: Body, t: Type) -> None:
    block = block_for(body, t, cell=True)
    body.add(f"x = {called(body, block, 'x')}")
    body.add(f"x = x + {called(body, block, 'x')}")


Statement = Callable[[Body, Type], None]
SIMPLE: list[Statement] = [*[residual] * 6, dropped, kept, one_label_twice]
NESTED: list[Statement] = [loop, loop, optional, optional, picks, masked, known, cell_twice]


def statements(body: Body, t: Type, most: int) -> None:
    """Some statements on `x`."""
    from differential.rarer import STATEMENTS

    rarer = STATEMENTS if body.file.wide else []
    for _ in range(body.rng.randint(1, min(most, body.file.most))):
        deep = body.depth < 3 and body.file.budget > 0
        body.rng.choice([*SIMPLE, *NESTED, *rarer] if deep else SIMPLE)(body, t)


def block_for(body: Body, t: Type, cell: bool = False) -> BlockText:
    """A block that fits a value: one that is there, or a new one."""
    file = body.file
    there = [b for b in file.blocks if b.fits(t) and b.cell == cell]
    if there and body.chance(0.6):
        return body.rng.choice(there)
    inside = replace(TYPES[t.kind], side=t.side, skip=t.skip)
    return make_block(body, inside, cell or body.chance(0.1))


def make_block(body: Body, t: Type, cell: bool) -> BlockText:
    """A new block on tensors of a kind."""
    file, rng = body.file, body.rng
    inside = Body(file, depth=body.depth + 1)
    arguments = [a for a in ("size", "flag", "rate", "count", "inner") if rng.random() < 0.2]
    if cell:
        arguments = [a for a in arguments if a in ("rate", "inner")]
    params = [f"x: {t.shape}"]
    for argument in arguments:
        name = file.fresh({"size": "hidden", "count": "times"}.get(argument, argument))
        params.append(name)
        match argument:
            case "size":
                inside.sizes.append(Size(name))
            case "flag":
                inside.flags.append(name)
            case "rate":
                inside.rates.append(name)
            case "count":
                inside.counts.append(name)
            case _:
                inside.inner.append(name)
    statements(inside, t, 3)
    if rng.random() < 0.15:
        inside.add(f"when {inside.condition()} {{ return x }}")
    word, name = ("cell", file.fresh("cell_")) if cell else ("block", file.fresh("f"))
    result = rng.choice([f" -> {t.shape}", ""])
    inside.add(f"return {branch(inside, 'x', t, deeper=3)}")
    text = "\n".join(inside.lines)
    file.items.append(f"{word} {name}({', '.join(params)}){result} {{\n{text}\n}}")
    made = BlockText(name, t, tuple(arguments), cell, frozenset(inside.used))
    file.blocks.append(made)
    return made
