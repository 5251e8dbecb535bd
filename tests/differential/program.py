"""A legal program for every whole number: a space, what it needs, and what is made of it.

    text = program(17)

The core is legal as it is written. Rules, limits and rewritings are put on it one by one; one that
the compiler refuses with a code that is expected there is left out again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import lru_cache

from differential.blocks import PLAIN, loop, optional, statements
from differential.body import Body, FileText, Size, Type
from differential.branches import activation

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.decision import plain
from spacelang.ir.graph import Graph
from spacelang.loader import load


@dataclass
class Program:
    """The parts of a text; `rules` and what follows them may be empty."""

    head: list[str]
    header: str
    lines: list[str]
    rules: list[str] = field(default_factory=list[str])
    limits: list[str] = field(default_factory=list[str])
    tail: list[str] = field(default_factory=list[str])

    def text(self) -> str:
        weights = [f"  weights {{ {'  '.join(self.rules)} }}"] if self.rules else []
        space = [self.header, *self.lines, *weights, *(f"  {x}" for x in self.limits), "}"]
        return "\n".join([*self.head, *space, *self.tail]) + "\n"

    def loaded(self) -> Graph:
        """The last space; the others are loaded, too."""
        if self.tail:
            replace(self, tail=self.tail[:-1]).loaded()
        return loaded(self.text())


NAME = "program.space"


@lru_cache(maxsize=8)
def loaded(text: str) -> Graph:
    """The graph of a text; what was just made is not loaded again to be checked."""
    return load(Source(NAME, text))


SHARING = {"SP302", "SP402", "SP403", "SP404", "SP504"}  # a rule that does not fit what is there
LIMITS = {"SP205", "SP502", "SP508"}  # no architecture left, or beyond exact counting
PASSES = {"SP601", "SP402", "SP403", "SP404", "SP504", "SP401", "SP203"}


def program(number: int) -> str:
    """The text of a number."""
    rng = random.Random(f"program {number}")
    made = core(rng, wide=number >= RARER, brief=number >= RARER and number % 4 > 0)
    try:
        graph = made.loaded()
    except SpaceError:
        return made.text()  # this is what is to be found
    extras(made, graph, rng)
    if number >= RARER:
        rarer_extras(made, graph, rng)
    return made.text()


RARER = 100
"""From this number on programs hold what is rarer, and three of four are brief; the texts of those
before stay as they are."""
BUDGETS = [1, 1, 2, 2, 3, 4, 6, 10]

# The core.


def core(rng: random.Random, wide: bool = False, brief: bool = False) -> Program:
    budgets, most = ([1], 1) if brief else (BUDGETS, 3)
    file = FileText(rng, budget=rng.choice(budgets), wide=wide, most=most)
    body = Body(file)
    params: list[str] = []
    if rng.random() < 0.3:
        params.append("classes = 3")
    if rng.random() < 0.25:
        params.append(f"flag = {rng.choice(['true', 'false'])}")
        body.flags.append("flag")
        file.fresh("flag")
    given = rng.random() < 0.2
    if given:
        params.append("base = 8")
    t = stem(body, Size("base") if given else None)
    while file.budget > 0:
        t = stage(body, t)
    finish(body, t, "classes" if "classes = 3" in params else rng.choice(["3", "5"]))
    default = ["default linear(bias: false)"] if rng.random() < 0.1 else []
    uses = [f"use {name}" for name in ("conv", "vit")]
    text = "\n".join([*file.items, *body.lines])
    head = [line for line in uses if f"{line[4:]}." in text]
    head += default + [block for kind, block in PLAIN.items() if f"plain_{kind}" in text]
    made = Program([*head, *file.items], f"space main({', '.join(params)}) {{", body.lines)
    first = rng.choice(["_: entangle", "_: entangle", "_: entangle", "_: separate"])
    if "choose " in text:
        # What is written out as alternatives shares tensors by its labels.
        alternatives = "block apart" in text or "block masked" in text
        # So do branches of one label in which a size of cases is a number.
        alternatives = alternatives or ("as both" in text and " else 8)" in text)
        made.rules.append("_: entangle" if alternatives or file.rules else first)
        made.rules += file.rules
    if given and rng.random() < 0.5:
        made.tail.append(f"space inst = main(base: {rng.choice(['4', 'choose {4, 8}'])})")
        made.rules = made.rules or [first]
    return made


def stem(body: Body, base: Size | None) -> Type:
    """The inputs, and the first tensor whose channels fit."""
    rng = body.rng
    match rng.choice(["row", "row", "tokens", "tokens", "map", "map", "map", "ids"]):
        case "row":
            body.add(f"input x: [B, {rng.choice([4, 8, 16])}]")
            t = Type("row", Size("8"))
            made = "linear(x, {}) as stem"
        case "tokens":
            n = rng.choice([4, 6])
            body.add(f"input x: [B, {n}, 8]")
            t = Type("tokens", Size("8"), (str(n),), 2 if n == 4 else 0)
            made = "linear(x, {}) as stem"
        case "ids":
            body.add("input ids: [B, 4] in 0..<7")
            t = Type("tokens", Size("8"), ("4",), 2)
            made = "take(parameter([7, {}]) as embedding, ids)"
        case _:
            side = rng.choice([4, 4, 8])
            body.add(f"input x: [B, 3, {side}, {side}]")
            t = Type("map", Size("8"), (str(side), str(side)), side)
            made = rng.choice(
                ["conv(x, {}, 3) as stem", "conv(x, {}, 3) as stem |> batch_norm as stem_norm"]
            )
    width = base or (body.size() if rng.random() < 0.7 else Size("8"))
    width = Size(width.operand, width.divisor, width.values)
    body.add(f"x = {made.format(width.text)}")
    return t.wide(width)


def stage(body: Body, t: Type) -> Type:
    """Some statements, then sometimes another type."""
    rng = body.rng
    if rng.random() < 0.15 and body.depth == 0:
        local_block(body, t)
    statements(body, t, 3)
    if rng.random() < 0.15:
        optional(body, t)
    if rng.random() < 0.15:
        loop(body, t)
    if rng.random() < 0.12:
        side_output(body, t)
    roll = rng.random()
    if roll < 0.25:
        return widened(body, t)
    if roll < 0.4 and t.kind == "map":
        body.add('x = rearrange(x, "b c h w -> b (h w) c")')
        return Type("tokens", t.channels, (str(t.side * t.side),), t.side)
    if roll < 0.35 and t.kind == "tokens" and t.side and not t.skip:
        token = f"parameter([1, 1, {t.channels.text}]) as {body.label('cls')}"
        body.add(f"x = concat([expand({token}, [B, 1, {t.channels.text}]), x], axis: 1)")
        return Type("tokens", t.channels, (str(t.side * t.side + 1),), t.side, 1)
    if roll < 0.45 and t.kind == "tokens":
        body.add(f"x = {rng.choice(['mean(x, axes: [1])', 'x[:, 0]', 'x[:, -1]'])}")
        return Type("row", t.channels)
    return t


def widened(body: Body, t: Type) -> Type:
    rng = body.rng
    width = body.size()
    width = Size(width.operand, width.divisor, width.values)
    if t.kind != "map":
        body.add(f"x = linear(x, {width.text}) as {body.label('wide')}")
        return t.wide(width)
    halve = t.side > 4 and rng.random() < 0.6
    stride = ", stride: 2" if halve else ""
    body.add(f"x = conv(x, {width.text}, 3{stride}) as {body.label('wide')}")
    side = t.side // 2 if halve else t.side
    return Type("map", width, (str(side), str(side)), side)


def local_block(body: Body, t: Type) -> None:
    """A block inside the space, which sees the decisions before it."""
    from differential.blocks import TYPES

    file, name = body.file, body.file.fresh("local")
    inside = body.child()
    inside.values, inside.depth = [], 1
    own = TYPES[t.kind]
    statements(inside, own, 2)
    body.add(f"block {name}(x: {own.shape}) -> {own.shape} {{")
    body.lines += inside.lines
    body.add("  return x")
    body.add("}")
    for _ in range(file.rng.choice([1, 2])):
        body.add(f"x = {name}(x) as {body.label('used')}")


def side_output(body: Body, t: Type) -> None:
    pooled = {"row": "x", "tokens": "mean(x, axes: [1])", "map": "mean(x, axes: [2, 3])"}[t.kind]
    body.add(f"output {body.file.fresh('side')}: linear({pooled}, 2) as {body.label('aux')}")


def finish(body: Body, t: Type, classes: str) -> None:
    rng = body.rng
    pooled = {
        "row": ["x", f"{activation(body)}(x)"],
        "tokens": ["mean(x, axes: [1])", "x[:, 0]", "x"],
        "map": ["mean(x, axes: [2, 3])", "mean(x, axes: [2, 3])", "x"],
    }[t.kind]
    made = rng.choice(pooled)
    if (made == "x" and t.kind == "map") or rng.random() < 0.1:
        body.add(f"output {made}")
    else:
        body.add(f"output linear({made}, {classes}) as head_out")


# What is put on it.


def extras(made: Program, graph: Graph, rng: random.Random) -> None:
    """Rules of storage, limits, derived spaces, instances and subnets."""
    more: list[Extra] = []
    if rng.random() < 0.4 and made.rules:
        for rule in (sharing(graph, rng) for _ in range(rng.choice([1, 2, 3]))):
            if rule:
                more.append((made.rules, rule, SHARING))
    if rng.random() < 0.3 and graph.decisions:
        for _ in range(rng.choice([1, 2])):
            more.append((made.limits, f"require {limit(graph, rng)}", LIMITS))
    if rng.random() < 0.15:
        names = dict.fromkeys(path.split(".")[0].split("[")[0] for path in graph.storages)
        renames = [f"{n}: net.{n}_{i}" for i, n in enumerate(names) if rng.random() < 0.5]
        if renames:
            more.append((made.limits, f"names published {{ {'  '.join(renames)} }}", set()))
    base = "inst" if made.tail else "main"
    if rng.random() < 0.25:
        line = f"space derived from {base} {{ {rewriting(graph, rng)} }}"
        more.append((made.tail, line, PASSES))
    add(made, more)


def rarer_extras(made: Program, graph: Graph, rng: random.Random) -> None:
    """A search, layers that are tied to others, subnets, and a program of two networks."""
    more: list[Extra] = []
    if rng.random() < 0.05:
        more.append((made.limits, "search evolution { population = 8  rates = [0.1, 0.4] }", set()))
    weights = [p for p, s in graph.storages.items() if s.param.role == "weight"]
    if len(weights) > 1 and made.rules and rng.random() < 0.2:
        one, two = (path.rpartition(".")[0] or path for path in rng.sample(weights, 2))
        how = rng.choice(["", ", slices: leading", ", slices: leading"])
        more.append((made.rules, f"{one}: tie({two}{how})", SHARING))
    if rng.random() < 0.15 and graph.decisions:
        taken = graph.decisions.extreme(rng.choice(["smallest", "largest"]))
        lines = "  ".join(f"{path} = {spelled(value)}" for path, value in taken.items())
        more.append((made.tail, f"subnet small of {graph.name} {{ {lines} }}", LIMITS | {"SP504"}))
    first = next((n for n in map(_first_hop, graph.storages) if n in ("stem", "embedding")), "")
    both = bool(first) and rng.random() < 0.1
    add(made, more)
    base = "inst" if any(line.startswith("space inst") for line in made.tail) else "main"
    if both and first in stored(made, base):
        networks = f"network one = {base}()  network two = {base}()"
        made.tail.append(f"program both {{ {networks}  share {first} }}")


def stored(made: Program, name: str) -> set[str]:
    """The labels under which one space of a program stores tensors, at its root."""
    tail = [line for line in made.tail if line.startswith(f"space {name} ")]
    return {_first_hop(path) for path in loaded(replace(made, tail=tail).text()).storages}


def _first_hop(path: str) -> str:
    return path.split(".")[0]


def spelled(value: object) -> str:
    """A value as a subnet of the language writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if value.isidentifier() else f'"{value}"'
    return str(value)


Extra = tuple[list[str], str, set[str]]
"""Where a line goes, the line, and with which codes it may be refused."""


def add(made: Program, extras: list[Extra]) -> None:
    """Add all lines, or one by one those with which the program stays legal.

    A refusal with another code stays for the checks to find.
    """
    for place, line, _ in extras:
        place.append(line)
    if not extras or not refused(made):
        return
    for place, line, _ in reversed(extras):
        del place[len(place) - 1 - place[::-1].index(line)]
    for place, line, expected in extras:
        place.append(line)
        codes = refused(made)
        if codes and codes <= expected:
            place.pop()


def refused(made: Program) -> set[str]:
    """The codes that a program is refused with."""
    try:
        graph = made.loaded()
        if made.limits:
            graph.size()
            graph.sample(1)
    except SpaceError as found:
        return {d.code for d in found.diagnostics}
    return set()


def wild(path: str, rng: random.Random) -> str:
    """A path, or a pattern that matches it."""
    roll = rng.random()
    hops = path.split(".")
    if roll < 0.3:
        return "_." + hops[-1].split("[")[0]
    if roll < 0.6:
        return ".".join(hop.split("[")[0] + "[_]" * hop.count("[") for hop in hops)
    return path


def sharing(graph: Graph, rng: random.Random) -> str:
    """A rule for one decision or parameter."""
    sizes = [p for p, c in graph.decisions.items() if c.kind == "dim"]
    params = [p for p, s in graph.storages.items() if s.param.role == "weight"]
    if sizes and rng.random() < 0.6:
        rule = rng.choice(
            ["entangle(centre)", "entangle(centre)", "separate", "entangle", "store(24)"]
        )
        return f"{wild(rng.choice(sizes), rng)}: {rule}"
    if not params:
        return ""
    path = rng.choice(params)
    if rng.random() < 0.4:
        call = path.rpartition(".")[0] or path
        name = wild(call, rng) if "[" in call else call
        return f"{name}: tie" + rng.choice(["", "(every: 2)"])
    return f"{wild(path, rng)}: {rng.choice(['separate', 'entangle(flat)', 'entangle', 'entangle(centre)'])}"


def limit(graph: Graph, rng: random.Random) -> str:
    """A condition on figures or decisions."""
    decisions = graph.decisions
    costs = [graph.cost(decisions.extreme(e)) for e in ("smallest", "largest")]
    paths = list(decisions)
    path = rng.choice(paths)
    choice = decisions[path]
    numbers = [
        p for p, c in decisions.items() if not isinstance(plain(c.values[0]), str | bool | list)
    ]
    if numbers and rng.random() < 0.5:
        one, two = rng.choice(numbers), rng.choice(numbers)
        value = plain(rng.choice(decisions[one].values))
        name = one.split("[")[0] if one.count("[") == 1 and "." not in one else ""
        forms = [f"{one} <= {value}", f"{one} != {value}", f"{one} <= {two}", f"{one} + {two} >= 2"]
        if name:
            forms += [f"sum({name}[_]) <= {value}", f"{name}[_] >= {value}", f"len({name}[_]) > 0"]
        return rng.choice(forms)
    if choice.kind == "path" and rng.random() < 0.5:
        return f"{path} != {plain(rng.choice(choice.values))}"
    if rng.random() < 0.7:
        low, high = sorted(c.params for c in costs)
        return rng.choice([f"params <= {(low + high) // 2}", f"params in {low}..{high - 1}"])
    low, high = sorted(c.macs for c in costs)
    return f"macs <= {(low + high + 1) // 2}"


def rewriting(graph: Graph, rng: random.Random) -> str:
    """Some passes as a derived space asks for them."""
    calls = [p.path for p in graph.places() if p.node.call is not None and p.path]
    indexed = [c.rpartition("[")[0] for c in calls if c.endswith("]")]
    forms = ["simplify()", "inline()", "simplify(fold_norm: true)"]
    if indexed:
        forms += [f"multiplex({rng.choice(indexed)}, every: 2)"] * 3
    labels = {p.rpartition(".")[2].split("[")[0]: c for p, c in graph.decisions.items()}
    open_ = [n for n, c in labels.items() if c.kind in ("path", "pick")]
    if open_:
        forms += [f'relax({rng.choice(open_)}: "{rng.choice(["softmax", "sigmoid"])}")'] * 2
    if any(p.node.op == "softmax" for p in graph.places()):
        on = rng.choice(['["k"]', '["q", "k"]', '["k", "v"]'])
        method = rng.choice(["product", "cross", "euclidean"])
        forms += [f'irpe(method: "{method}", ratio: 1, on: {on})', "bucketise()"] * 2
    steps = [rng.choice(forms) for _ in range(rng.choice([1, 1, 2]))]
    more = " weights { _: entangle }" if rng.random() < 0.2 and graph.decisions else ""
    return f"rewrite {{ {' '.join(steps)} }}{more}"
