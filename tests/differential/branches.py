"""Expressions that keep the type of what they read: rows of tables, one for each kind of tensor.

A row is given the body that it stands in, the name of a tensor and its type, and gives an expression
of the same type; lines that it needs before it are added to the body.
"""

from __future__ import annotations

from collections.abc import Callable

from differential.body import BlockText, Body, Size, Type

ACTIVATIONS = ["relu", "gelu", "swish", "sigmoid", "hard_sigmoid", "hard_swish", "tanh", "abs"]
Row = Callable[[Body, str, Type], str]


def activation(body: Body) -> str:
    return body.rng.choice(ACTIVATIONS)


# Of any kind.


def pointwise(body: Body, x: str, t: Type) -> str:
    return body.rng.choice(
        [
            f"{activation(body)}({x})",
            f"{x} * 0.5",
            f"1 - {x} / 2",
            f"-{x}",
            f"exp(-abs({x}))",
            f"sqrt(abs({x}) + 1)",
            f"{x} / (1 + abs({x}))",
            f"dropout({x}, {body.rate()})",
            f"drop_path({activation(body)}({x}), {body.rate()})",
            f"({x} * {x}) as {body.label('square')}",
            f"zero({x})",
        ]
    )


def several(body: Body, x: str, t: Type) -> str:
    """The sum of values of this type."""
    others = [n for n, u in body.values if u == t]
    items = [x, f"{activation(body)}({x})", *others[:2]]
    return f"total([{', '.join(items)}])"


def paths(body: Body, x: str, t: Type) -> str:
    """One of several computations."""
    name = body.file.fresh("op")
    count = body.rng.choice([2, 2, 3])
    options = [f"{key}: {branch(body, x, t, deeper=1)}" for key in ("a", "b", "c")[:count]]
    if body.chance(0.3):
        options.append(body.rng.choice([f"skip: {x}", f"none: zero({x})"]))
    return f"choose {name}{body.suffix} {{ {'  '.join(options)} }}"


def call(body: Body, x: str, t: Type) -> str:
    """A block, made here or made before."""
    from differential.blocks import block_for

    block = block_for(body, t)
    return called(body, block, x)


def called(body: Body, block: BlockText, x: str) -> str:
    """The call of a block with arguments of its kinds."""
    rng = body.rng
    given: list[str] = []
    for kind in block.arguments:
        match kind:
            case "size":
                here = rng.random() < 0.3
                given.append("choose {4, 8}" if here else body.size().text)
            case "flag":
                given.append(rng.choice(["true", "false", "", ""]) or body.condition())
            case "rate":
                given.append(body.rate())
            case "count":
                given.append(rng.choice(["1", "2", ""]) or body.choose_count())
            case _:
                given.append(rng.choice(INNER[block.type.kind]))
    label, spliced = f" as {body.label(block.name)}", {block.name, *block.spliced}
    free = not body.suffix and not block.cell and body.used.isdisjoint(spliced)
    if free and rng.random() < 0.15:
        label = " as _"
        body.used |= spliced
    elif not body.suffix and "choose {" not in "".join(given) and rng.random() < 0.1:
        label = ""
    if rng.random() < 0.3:
        return f"({x} |> {block.name}({', '.join(given)}){label})"
    return f"{block.name}({', '.join([x, *given])}){label}"


def inner(body: Body, x: str, t: Type) -> str:
    """A block that was given as an argument."""
    if not body.inner:
        return call(body, x, t)
    return f"{body.rng.choice(body.inner)}({x}) as {body.label('inner')}"


INNER = {
    "row": ["plain_row", "relu", "tanh"],
    "tokens": ["plain_tokens", "gelu", "sigmoid"],
    "map": ["plain_map", "swish", "relu"],
}


# Of rows and tokens: over the last axis.


def dense(body: Body, x: str, t: Type) -> str:
    bias = body.rng.choice(["", "", ", bias: false", ", init: normal(0.1)"])
    return f"linear({x}, {t.channels.text}{bias}) as {body.label('fc')}"


def mlp(body: Body, x: str, t: Type) -> str:
    hidden = body.size(1)
    up = f"linear({x}, {hidden.text}) as {body.label('up')} |> {activation(body)}"
    return f"({up} |> linear({t.channels.text}) as {body.label('down')})"


def normed(body: Body, x: str, t: Type) -> str:
    return f"{body.rng.choice(['layer_norm', 'rms_norm'])}({x}) as {body.label('norm')}"


def gate(body: Body, x: str, t: Type) -> str:
    return f"{x} * sigmoid(linear({x}, {t.channels.text}) as {body.label('gate')})"


def shifted(body: Body, x: str, t: Type) -> str:
    axes = body.rng.choice(
        ["1, ", ""] if t.kind == "row" else ["1, 1, ", "", f"1, {t.extent[0]}, "]
    )
    return f"{x} + parameter([{axes}{t.channels.text}]) as {body.label('shift')}"


def factored(body: Body, x: str, t: Type) -> str:
    first = body.size(1) if body.chance(0.5) else Size(str(body.rng.choice([2, 3])))
    factors = body.rng.choice([f"[{first.text}, 2]", f"[2, {first.text}]", f"[3, {first.text}]"])
    up = f"linear({x}, {factors}) as {body.label('parts')}"
    return f"({up} |> linear({t.channels.text}, axes: 2) as {body.label('join')})"


def unstacked(body: Body, x: str, t: Type) -> str:
    axis = 1 if t.kind == "row" else 2
    a, b = body.file.fresh("a"), body.file.fresh("b")
    heads = body.size(1)
    made = f"linear({x}, [2, {heads.text}, 2]) as {body.label('ab')}"
    body.add(f"{a}, {b} = {made} |> unstack(axis: {axis})")
    mixed = f"{a} * {activation(body)}({b})"
    return f"linear({mixed}, {t.channels.text}, axes: 2) as {body.label('out')}"


def cascaded(body: Body, x: str, t: Type) -> str:
    n = body.rng.choice([2, 4])
    label = body.file.fresh("head") + body.suffix + "[j]"
    c = t.channels.operand
    tail = body.rng.choice(["", f" |> {activation(body)}"])
    made = f"linear(part, {c} / {n}) as {label}{tail}"
    return f"cascade(split({x}, {n}, axis: -1), axis: -1) |j, part| {{ return {made} }}"


def halves(body: Body, x: str, t: Type) -> str:
    c = t.channels.operand
    full = ", ".join([":"] * (1 if t.kind == "row" else 2))
    first, second = f"{x}[{full}, 0..<{c} / 2]", f"{x}[{full}, {c} / 2..]"
    return body.rng.choice(
        [
            f"concat([{second}, {first}], axis: -1)",
            f"concat([{activation(body)}({first}), {second}], axis: -1)",
            f"concat([{first} * {second}, {second}], axis: -1)",
        ]
    )


def listed(body: Body, x: str, t: Type) -> str:
    """Parts by a list that unrolls."""
    label = body.file.fresh("part") + body.suffix + "[j]"
    made = f"linear(p, {t.channels.operand} / 2) as {label}"
    return f"concat([{made} for j, p in enumerate(split({x}, 2, axis: -1))], axis: -1)"


def tied_weight(body: Body, x: str, t: Type) -> str:
    w = body.file.fresh("w")
    c = t.channels.text
    body.add(f"{w} = parameter([{c}, {c}]) as {body.label('shared')}")
    first = f"linear({x}, {c}, weight: {w}, bias: false)"
    return body.rng.choice([first, f"linear(relu({first}), {c}, weight: {w}, bias: false)"])


def rearranged(body: Body, x: str, t: Type) -> str:
    n = body.rng.choice([2, 4])
    lead = "b" if t.kind == "row" else "b n"
    return f'rearrange({x}, "{lead} (h d) -> {lead} (d h)", h: {n})'


# Of tokens.


def attention(body: Body, x: str, t: Type) -> str:
    """Self-attention, sometimes with relative positions."""
    rng, file = body.rng, body.file
    heads = rng.choice(["2", "1", ""])
    if not heads:
        heads = file.fresh("heads")
        body.add(f"choose {heads}{body.suffix} in {rng.choice(['{1, 2}', '{2, 3}', '1..3'])}")
    dim = rng.choice([2, 4])
    q, k, v, s, p = (file.fresh(n) for n in "qkvsp")
    body.add(
        f"{q}, {k}, {v} = linear({x}, [3, {heads}, {dim}]) as {body.label('qkv')} |> unstack(axis: 2)"
    )
    body.add(f'{s} = einsum("bihd,bjhd->bhij", {q}, {k}) * rsqrt({dim})')
    out = ""
    if t.side and rng.random() < 0.7:
        grid = f"{t.side}, {t.side}"
        rows = rng.choice([2, 3])
        clipped = f"clipped_index({grid}, axis: {{}}, reach: {rows}, skip: {t.skip})"
        match rng.randrange(4):
            case 0 if t.skip == 0:
                table = f"parameter([{heads}, {t.extent[0]}]) as {body.label('biases')}"
                named = rng.choice(["", f" as {body.label('at')}"])
                index = f'offset_index({grid}, kind: "absolute"){named}'
                body.add(f"{s} = {s} + take({table}, {index}, axis: 1)")
            case 1:
                method = rng.choice(["euclidean", "quantised", "product"])
                count = {"product": 25}.get(method, 5) + (t.skip > 0)
                table = f"parameter([{count}, {dim}]) as {body.label('rpe')}"
                index = f'bucket_index({grid}, method: "{method}", ratio: 1, skip: {t.skip})'
                body.add(f'{s} = {s} + einsum("bihd,ijd->bhij", {q}, take({table}, {index}))')
            case _:
                r = file.fresh("r")
                tables = [
                    f"take(parameter([{2 * rows + 2}, {dim}]) as {body.label('table')}, "
                    f"{clipped.format(axis)})"
                    for axis in (0, 1)
                ]
                body.add(f"{r} = {' + '.join(tables)}")
                body.add(f'{s} = {s} + einsum("bihd,ijd->bhij", {q}, {r})')
                if rng.random() < 0.5:
                    out = f' + einsum("bhij,ijd->bihd", {p}, {r})'
    body.add(f"{p} = softmax({s})")
    mixed = f'einsum("bhij,bjhd->bihd", {p}, {v}){out}'
    return f"linear({mixed}, {t.channels.text}, axes: 2) as {body.label('proj')}"


def across(body: Body, x: str, t: Type) -> str:
    """A layer over tokens instead of channels."""
    n = t.extent[0]
    turned = f'rearrange({x}, "b n c -> b c n") |> linear({n}) as {body.label("tokens")}'
    return f'({turned} |> rearrange("b c n -> b n c"))'


def pooled_tokens(body: Body, x: str, t: Type) -> str:
    return body.rng.choice(
        [
            f"{x} + mean({x}, axes: [1], keep: true)",
            f"{x} * {x}[:, 0..0]",
            f"concat([{x}[:, 1..], {x}[:, 0..0]], axis: 1)",
            f"roll({x}, [1], axes: [1])",
        ]
    )


# Of maps.


def convolution(body: Body, x: str, t: Type) -> str:
    rng, c = body.rng, t.channels.text
    k = rng.choice(["1", "3", "3", "5", ""]) or kernel(body)
    groups = rng.choice(["", "", ", groups: 2", f", groups: {c}", ", bias: true", ", dilation: 2"])
    if "dilation" in groups and k == "5":
        groups = ""
    made = f"conv({x}, {c}, {k}{groups}) as {body.label('conv')}"
    if rng.random() < 0.5:
        made += f" |> batch_norm{rng.choice(['', '', '(affine: false)', '(gamma: 0)'])}"
        made += f" as {body.label('bn')}"
    if rng.random() < 0.5:
        made += f" |> {activation(body)}"
    return f"({made})"


def kernel(body: Body) -> str:
    name = body.file.fresh("kernel")
    body.add(f"choose {name}{body.suffix} in {body.rng.choice(['{1, 3}', '{3, 5}', '1..5 by 2'])}")
    return name


def inverted(body: Body, x: str, t: Type) -> str:
    h = body.size(1).text
    k = body.rng.choice(["3", ""]) or kernel(body)
    wide = f"conv({x}, {h}) as {body.label('pw')} |> batch_norm as {body.label('bn')} |> swish"
    deep = f"conv({h}, {k}, groups: {h}) as {body.label('dw')} |> relu"
    return f"({wide} |> {deep} |> conv({t.channels.text}) as {body.label('pwl')})"


def pooled(body: Body, x: str, t: Type) -> str:
    return body.rng.choice(
        [
            f"max_pool({x}, 3)",
            f"avg_pool({x}, 3)",
            f"avg_pool({x}, 3, count_pad: true)",
            f"{x} * sigmoid(mean({x}, axes: [2, 3], keep: true))",
            f"group_norm({x}, {body.rng.choice([1, 2, 4])}) as {body.label('gn')}",
            f"batch_norm({x}) as {body.label('bn')}",
            f"resize(avg_pool({x}, 2, stride: 2, pad: 0), [{t.extent[0]}, {t.extent[1]}])",
            f'resize({x}, [{t.extent[0]}, {t.extent[1]}], mode: "nearest")',
            f"pad({x}[:, :, 1..], [1], axes: [2])",
            f"roll({x}, [1, -1], axes: [2, 3])",
        ]
    )


def upsampled(body: Body, x: str, t: Type) -> str:
    c = t.channels.text
    small = f"conv({x}, {body.size(1).text}, 3, stride: 2) as {body.label('small')}"
    return f"({small} |> conv_transpose({c}) as {body.label('large')})"


def squeezed(body: Body, x: str, t: Type) -> str:
    reduced = body.size(1).text
    down = (
        f"mean({x}, axes: [2, 3], keep: true) |> conv({reduced}, bias: true) as {body.label('se')}"
    )
    return f"{x} * ({down} |> relu |> conv({t.channels.text}, bias: true) as {body.label('ex')} |> sigmoid)"


def windowed(body: Body, x: str, t: Type) -> str:
    """Attention in windows, sometimes shifted and masked."""
    y, s = body.file.fresh("y"), body.file.fresh("s")
    h, w = t.extent
    shift = body.chance(0.5)
    start = f"roll({x}, [-1, -1], axes: [2, 3])" if shift else x
    body.add(f'{y} = rearrange({start}, "b c (y p) (x q) -> b (y x) (p q) c", p: 2, q: 2)')
    body.add(f'{s} = einsum("bgic,bgjc->bgij", {y}, {y})')
    if shift:
        named = body.rng.choice(["", f" as {body.label('mask')}"])
        m = body.file.fresh("m")
        body.add(f"{m} = shift_mask({h}, {w}, 2, 1){named}")
        body.add(f"{s} = {s} + {m}[:, 0]")
    made = f'einsum("bgij,bgjc->bgic", softmax({s}), {y})'
    back = f'rearrange({made}, "b (y x) (p q) c -> b c (y p) (x q)", y: {h} / 2, p: 2, q: 2)'
    return f"roll({back}, [1, 1], axes: [2, 3])" if shift else back


def kernels(body: Body, x: str, t: Type) -> str:
    """A kernel that is a part of a larger one."""
    w = body.file.fresh("w")
    c = t.channels.text
    body.add(f"{w} = parameter([{c}, 1, 5, 5]) as {body.label('kernels')}")
    return f"conv({x}, {c}, 3, groups: {c}, weight: {w}[:, :, 1..3, 1..3])"


def map_cascade(body: Body, x: str, t: Type) -> str:
    label = body.file.fresh("head") + body.suffix + "[j]"
    made = f"conv(part, {t.channels.operand} / 2, 3) as {label}"
    return f"cascade(split({x}, 2, axis: 1), axis: 1) |j, part| {{ return {made} }}"


def library(body: Body, x: str, t: Type) -> str:
    c = t.channels.text
    one = f"conv.conv_bn({x}, {c}, 3) as {body.label('cb')}"
    return body.rng.choice([one, f"conv.squeeze_excite({x}, 4) as {body.label('sq')}"])


def library_mlp(body: Body, x: str, t: Type) -> str:
    return f"vit.mlp({x}, {body.size(1).text}) as {body.label('ffn')}"


ANY: list[Row] = [pointwise, several, paths, paths, call, call, inner]
FLAT: list[Row] = [
    dense, mlp, mlp, normed, gate, shifted, factored, unstacked, cascaded, halves, listed,
    tied_weight, rearranged, library_mlp,
]  # fmt: skip
ROWS: dict[str, list[Row]] = {
    "row": [*ANY, *FLAT],
    "tokens": [*ANY, *FLAT, *[attention] * 5, across, pooled_tokens],
    "map": [
        *ANY, *[convolution] * 5, *[inverted] * 2, *[pooled] * 2, upsampled, squeezed, windowed, kernels,
        map_cascade, library,
    ],
}  # fmt: skip
DEEP = {paths, call, inner}
# Rows that bind names: where turns of a loop are optional these would leave with two shapes.
BINDING = {attention, unstacked, tied_weight, windowed, kernels}


def branch(body: Body, x: str, t: Type, deeper: int = 0) -> str:
    """An expression of the type of `x`."""
    rows = ROWS[t.kind]
    if body.depth + deeper >= 3 or body.file.budget <= 0:
        rows = [row for row in rows if row not in DEEP]
    if body.suffix:
        rows = [row for row in rows if row not in BINDING]
    if body.file.wide:
        from differential.rarer import rarer

        rows = [*rows, *rarer(body, t)]
    body.file.budget -= 1
    inside = body if not deeper else _deeper(body, deeper)
    return body.rng.choice(rows)(inside, x, t)


def _deeper(body: Body, by: int) -> Body:
    """The same body for what is nested in an expression; lines and names are shared."""
    from dataclasses import replace

    return replace(body, depth=body.depth + by)
