"""Texts under construction: names that are free, sizes and conditions that are legal where they stand.

Everything random comes from one `random.Random`, so that a number names a program.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

DOMAINS = [
    ("{4, 8}", (4, 8)),
    ("{8, 12}", (8, 12)),
    ("{4, 8, 12}", (4, 8, 12)),
    ("4..12 by 4", (4, 8, 12)),
    ("{8, 16} within 8..16 by 4", (8, 16)),
    ("{8}", (8,)),
]
SCALES = ["{1, 2}", "{1, 1.5, 2}", "{0.5, 1}", "1..2"]


@dataclass(frozen=True)
class Size:
    """A size as it is written; every one of its values is a multiple of `divisor`."""

    text: str
    divisor: int = 4
    values: tuple[int, ...] = ()  # of a decision; empty where they are not known

    @property
    def operand(self) -> str:
        """The text where an operand of `*` stands."""
        return self.text if self.text.replace("_", "").isalnum() else f"({self.text})"


@dataclass(frozen=True)
class Type:
    """What flows: a "row" [B, C], "tokens" [B, N, C] or a "map" [B, C, H, W].

    Channels are a multiple of 4, sides of maps are even; `extent` is how N, or H and W, are written.
    """

    kind: str
    channels: Size
    extent: tuple[str, ...] = ()
    side: int = 0  # of a map, or of the grid behind tokens; 0 where it is not known
    skip: int = 0  # tokens before the grid

    @property
    def shape(self) -> str:
        c = self.channels.text
        axes = [c, *self.extent] if self.kind == "map" else [*self.extent, c]
        return f"[B, {', '.join(axes)}]"

    def wide(self, channels: Size) -> Type:
        return replace(self, channels=channels)


@dataclass(frozen=True)
class BlockText:
    """A block that keeps the type of its tensor, and the kinds of its other arguments."""

    name: str
    type: Type
    arguments: tuple[str, ...]  # "size", "flag", "rate", "count", "inner"
    cell: bool = False
    spliced: frozenset[str] = frozenset()  # blocks whose names it has for its own: `as _`

    def fits(self, t: Type) -> bool:
        """Whether it was made for such tensors; what stands on a grid stays there."""
        own = self.type
        return (own.kind, own.side, own.skip) == (t.kind, t.side, t.skip)


@dataclass
class FileText:
    """What all parts of one program share."""

    rng: random.Random
    names: Counter[str] = field(default_factory=Counter[str])
    items: list[str] = field(default_factory=list[str])
    blocks: list[BlockText] = field(default_factory=list[BlockText])
    budget: int = 14  # statements left
    wide: bool = False  # with what `rarer.py` holds
    most: int = 3  # statements in a row
    rules: list[str] = field(default_factory=list[str])  # of storage, that a part asks for

    def fresh(self, base: str) -> str:
        self.names[base] += 1
        count = self.names[base]
        return base if count == 1 else f"{base}{count}"

    def chance(self, share: float) -> bool:
        return self.rng.random() < share


@dataclass
class Body:
    """Statements in the making, and what they may mention."""

    file: FileText
    level: int = 1
    suffix: str = ""  # the index of every label and decision in here: `[i]`
    sizes: list[Size] = field(default_factory=list[Size])
    flags: list[str] = field(default_factory=list[str])
    rates: list[str] = field(default_factory=list[str])
    counts: list[str] = field(default_factory=list[str])
    inner: list[str] = field(default_factory=list[str])  # arguments that are blocks
    values: list[tuple[str, Type]] = field(default_factory=list[tuple[str, Type]])
    lines: list[str] = field(default_factory=list[str])
    depth: int = 0  # of nesting
    used: set[str] = field(default_factory=set[str])  # blocks that were called as `_`

    @property
    def rng(self) -> random.Random:
        return self.file.rng

    def chance(self, share: float) -> bool:
        return self.file.chance(share)

    def add(self, line: str) -> None:
        self.lines.append("  " * self.level + line)

    def child(self, suffix: str = "") -> Body:
        """A body inside of this one; what it binds is not seen after it."""
        return replace(
            self,
            level=self.level + 1,
            suffix=self.suffix + suffix,
            sizes=[*self.sizes],
            flags=[*self.flags],
            rates=[*self.rates],
            counts=[*self.counts],
            inner=[*self.inner],
            values=[*self.values],
            lines=[],
            depth=self.depth + 1,
        )

    def label(self, base: str) -> str:
        return self.file.fresh(base) + self.suffix

    # Decisions.

    def choose_size(self) -> Size:
        name = self.file.fresh("width")
        domain, values = self.rng.choice(DOMAINS)
        self.add(f"choose {name}{self.suffix} in {domain}")
        self.sizes.append(Size(name, 4, values))
        return self.sizes[-1]

    def choose_scale(self) -> str:
        name = self.file.fresh("ratio")
        self.add(f"choose {name}{self.suffix} in {self.rng.choice(SCALES)}")
        return name

    def choose_flag(self) -> str:
        name = self.file.fresh("flag")
        order = self.rng.choice(["{true, false}", "{false, true}"])
        self.add(f"choose {name}{self.suffix} in {order}")
        self.flags.append(name)
        return name

    def choose_count(self) -> str:
        name = self.file.fresh("depth")
        self.add(f"choose {name}{self.suffix} in {self.rng.choice(['1..2', '0..2', '{1, 3}'])}")
        self.counts.append(name)
        return name

    def word(self) -> str:
        """A decision over words, and a condition on it."""
        name = self.file.fresh("act")
        self.add(f'choose {name}{self.suffix} in {{"soft", "hard"}}')
        self.flags.append(f'{name} == "soft"')
        return self.flags[-1]

    # Sizes and conditions.

    def size(self, divisor: int = 4) -> Size:
        """A size whose values are multiples of `divisor` (4, or 1 for what nothing divides)."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.3:
            return Size(str(rng.choice([4, 8, 12]) if divisor > 1 else rng.choice([1, 3, 6, 8])))
        if roll < 0.5 and self.sizes:
            return rng.choice(self.sizes)
        if roll < 0.7:
            return self.choose_size()
        base = rng.choice(self.sizes) if self.sizes and rng.random() < 0.7 else self.choose_size()
        a = base.operand
        forms = [
            f"2 * {a}",
            f"max({a}, 8)",
            f"min({a}, 8)",
            f"{a} + 4",
            f"({a} + 7) // 8 * 8",
            f"({a} if {self.condition()} else 8)",
        ]
        if divisor == 1:
            forms += [f"3 * {a} // 2", f"{a} / 4", f"{a} % 3 + 1", f"{a} / 2"]
            forms += [f"{a} * {self.choose_scale()}"] * 4
        return Size(rng.choice(forms), divisor)

    def condition(self) -> str:
        """A truth value, on decisions where there are some."""
        rng = self.rng
        known = [s for s in self.sizes if s.values]
        options = [*self.flags]
        for size in known:
            k = rng.choice(size.values)
            options.append(rng.choice([f"{size.text} > {k}", f"{size.text} == {k}"]))
            options.append(rng.choice([f"{size.text} <= {k}", f"{size.text} in {{4, {k}}}"]))
        options += [f"{c} > {rng.choice([0, 1])}" for c in self.counts]
        if not options or rng.random() < 0.25:
            return self.word() if rng.random() < 0.2 else self.choose_flag()
        one = rng.choice(options)
        if rng.random() < 0.2:
            one = f"not ({one})"
        if rng.random() < 0.2:
            one = f"({one}) {rng.choice(['and', 'or'])} ({rng.choice(options)})"
        return one

    def rate(self) -> str:
        rng = self.rng
        if self.rates and rng.random() < 0.7:
            return rng.choice(self.rates)
        return rng.choice(["0", "0.1", "0.25", "0.5"])
