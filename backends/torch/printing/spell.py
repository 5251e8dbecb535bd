"""Spelling in printed sources: sizes, and attributes by path.

64 * self.heads      self.encoder[3].attn      nn.ModuleList([Encoder(192, 3), ..])
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from keyword import iskeyword

from spacelang.backends.torch.lowering.ports import identifier, known
from spacelang.ir.dim import Dim, Symbol, symbol_of

TENSORS = ("nn.Parameter", "nn.Buffer")  # what no list of modules holds
TAKEN = frozenset({"self", "torch", "nn", "F", "Tensor", *dir(builtins)})


def quoted(text: str) -> str:
    """Any text as a string of Python source, with no sign that ends or changes it."""
    return f'"{escaped(text)}"'


def escaped(text: str) -> str:
    """What stands between the quotes of a string, or of a docstring, for a text."""
    if text.isprintable() and not {'"', "\\"} & set(text):
        return text
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')


def free_name(name: str, taken: set[str]) -> str:
    """A name that nothing else has."""
    name = identifier(name)
    found, count = name, 2
    while found in taken or found in TAKEN:
        found, count = f"{name}_{count}", count + 1
    return found


@dataclass
class Sizes:
    """The arguments of a class, and how sizes are written with them.

    What is made of whole decisions is written out, `64 * heads`; another size that holds a decision
    is an argument itself.
    """

    taken: frozenset[str] = frozenset()
    arguments: dict[Dim, str] = field(default_factory=dict[Dim, str])

    def text(self, dim: Dim, owner: str = "") -> str:
        """A size by the arguments, or with `owner` ("self.") by the attributes of these names."""
        if dim.constant is not None:
            return repr(known(dim, {}))
        if not _written_out(dim):
            return owner + self.argument(dim)
        terms: list[str] = []
        for monomial, coefficient in dim.terms:
            factors = [str(abs(coefficient))] if abs(coefficient) != 1 or not monomial else []
            for atom, exponent in monomial:
                assert isinstance(atom, Symbol)
                name = owner + self.argument(Dim.of(atom))
                factors.append(name if exponent == 1 else f"{name}**{exponent}")
            terms.append("-" * (coefficient < 0) + " * ".join(factors))
        return " + ".join(terms).replace("+ -", "- ")

    def argument(self, dim: Dim) -> str:
        """The name of the argument that a size is."""
        if dim not in self.arguments:
            self.arguments[dim] = free_name(str(dim), {*self.taken, *self.arguments.values()})
        return self.arguments[dim]


def _written_out(dim: Dim) -> bool:
    """Whether it is a sum of whole multiples of whole decisions."""
    return (
        all(
            coefficient.denominator == 1
            and all(isinstance(a, Symbol) and e > 0 and _whole(a) for a, e in monomial)
            for monomial, coefficient in dim.terms
        )
        and symbol_of(dim) is None
    )


def _whole(symbol: Symbol) -> bool:
    return bool(symbol.values) and all(
        isinstance(v, Fraction) and v.denominator == 1 for v in symbol.values
    )


@dataclass
class Attributes:
    """What a class owns, by dotted path, and the expressions that make it.

    Paths lead through lists and dictionaries where their labels are numbers, else through `Group`s.
    What lies below something that is made by one expression is added to that afterwards.
    """

    made: dict[str, str] = field(default_factory=dict[str, str])

    def statements(self) -> list[str]:
        """The statements of `__init__` that make them all."""
        tops = dict.fromkeys(path.split(".", 1)[0] for path in self.made)
        lines = [_assigned("self", top, self._value(top)) for top in tops]
        below = dict.fromkeys(self._attached(path) for path in self.made)
        for path in sorted(filter(None, below), key=lambda path: path.count(".")):
            above, _, label = path.rpartition(".")
            lines.append(_assigned(self.access(above), label, self._value(path)))
        return lines

    def access(self, path: str) -> str:
        """How the class reads an attribute: `self.encoder[3].attn`."""
        text, prefix = "self", ""
        for label in path.split("."):
            kind = self._kind(prefix)
            if kind == "list":
                text += f"[{label}]"
            elif kind == "dictionary":
                text += f"[{quoted(label)}]"
            elif _plain(label):
                text += f".{label}"
            else:
                text = f"getattr({text}, {quoted(label)})"
            prefix = f"{prefix}.{label}" if prefix else label
        return text

    def length(self, prefix: str) -> int:
        """How long the list at a path is; 0 where there is none."""
        return len(self._labels(prefix)) if prefix and self._kind(prefix) == "list" else 0

    def _attached(self, path: str) -> str:
        """The path by which it comes to hang below the last thing on its way that is made by one
        expression; none where there is no such."""
        parts = path.split(".")
        ends = [n for n in range(1, len(parts)) if ".".join(parts[:n]) in self.made]
        return ".".join(parts[: ends[-1] + 1]) if ends else ""

    def _labels(self, prefix: str) -> list[str]:
        start = prefix + "."
        below = (path[len(start) :] for path in self.made if path.startswith(start))
        return list(dict.fromkeys(rest.split(".", 1)[0] for rest in below))

    def _kind(self, prefix: str) -> str:
        labels = self._labels(prefix) if prefix else []
        tensors = any(
            self.made.get(f"{prefix}.{label}", "").startswith(TENSORS) for label in labels
        )
        digits = bool(labels) and all(label.isdigit() for label in labels)
        if prefix in self.made or tensors or not digits:
            return "object"
        return "list" if labels == [str(i) for i in range(len(labels))] else "dictionary"

    def _value(self, prefix: str) -> str:
        if prefix in self.made:
            return self.made[prefix]
        parts = {label: self._value(f"{prefix}.{label}") for label in self._labels(prefix)}
        match self._kind(prefix):
            case "list":
                return called("nn.ModuleList", list(parts.values()), "[]")
            case "dictionary":
                entries = [f"{quoted(k)}: {v}" for k, v in parts.items()]
                return called("nn.ModuleDict", entries, "{}")
            case _:
                return called("Group", [_keyword(k, v) for k, v in parts.items()])


def _plain(label: str) -> bool:
    return label.isidentifier() and label.isascii() and not iskeyword(label)


def _keyword(label: str, value: str) -> str:
    return f"{label}={value}" if _plain(label) else f"**{{{quoted(label)}: {value}}}"


def _assigned(owner: str, label: str, value: str) -> str:
    if _plain(label):
        return f"{owner}.{label} = {value}"
    return f"setattr({owner}, {quoted(label)}, {value})"


def called(function: str, arguments: Sequence[str], brackets: str = "", width: int = 80) -> str:
    """A call, with a line for each argument where it is long."""
    first, last = brackets or ("", "")
    line = f"{function}({first}{', '.join(arguments)}{last})"
    if len(line) <= width and "\n" not in line:
        return line
    lines = "".join(f"\n{indented(a)}," for a in arguments)
    return f"{function}({first}{lines}\n{last})"


def indented(text: str, depth: int = 1) -> str:
    return "\n".join("    " * depth + line if line else line for line in text.split("\n"))
