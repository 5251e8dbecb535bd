"""Rearranges in a row: two made one, and none where they cancel.

    b c h w -> b (h w) c    then    b (h w) c -> b c h w (h: 14)        nothing at all
    b n (g d) -> b n g d    then    b n g d -> b g n d                  b n (g d) -> b g n d

Both are read as lists of atoms: the names of the first, taken further apart where the second does.
"""

from __future__ import annotations

from dataclasses import dataclass

from spacelang.ir.dim import ONE, Dim
from spacelang.ir.infer import Settled
from spacelang.ir.node import Attribute, Node, TensorType
from spacelang.ops.patterns import Group, bind_rearrange, parse_rearrange

Groups = tuple[Group, ...]


@dataclass(frozen=True)
class Move:
    """A rearrange in atoms: one group an axis on both sides, and the size of each atom."""

    left: Groups
    right: Groups
    sizes: dict[str, Dim]

    @property
    def idle(self) -> bool:
        """Whether nothing moves."""
        return self.left == self.right

    def attributes(self) -> dict[str, Attribute]:
        """The options that say the same; every split but the first of an axis has its size."""
        names: dict[str, str] = {}
        for group in self.left:
            for atom in group:
                names[atom] = f"a{len(names)}"
        given: tuple[Attribute, ...] = tuple(
            (names[atom], self.sizes[atom]) for group in self.left for atom in group[1:]
        )
        sides = (_spelt(side, names) for side in (self.left, self.right))
        return {"pattern": " -> ".join(sides), "sizes": given}


def _spelt(side: Groups, names: dict[str, str]) -> str:
    words: list[str] = []
    for group in side:
        inner = [names[atom] for atom in group]
        words.append(inner[0] if len(inner) == 1 else f"({' '.join(inner)})" if inner else "1")
    return " ".join(words)


def move_of(node: Node, type: TensorType, tag: str) -> Move:
    """A rearrange node in atoms whose names start with `tag`; axes of `...` are named, too."""
    infer = Settled("rearrange", (type,), node.attributes, span=node.span)
    sides = parse_rearrange(infer)
    known, leading = bind_rearrange(infer, sides)
    sizes = {tag + name: size for name, size in known.items()}
    rest = tuple((f"{tag}.{i}",) for i in range(len(leading)))
    sizes |= {group[0]: size for group, size in zip(rest, leading, strict=True)}

    def spread(side: Groups) -> Groups:
        found: list[Group] = []
        for group in side:
            if group == ("...",):
                found += rest
            else:
                found.append(tuple(tag + name for name in group if name != "1"))
        return tuple(found)

    return Move(spread(sides.left), spread(sides.right), sizes)


def joined(first: Move, second: Move) -> Move | None:
    """The second after the first as one; None where their axes have no common atoms."""
    split: dict[str, Group] = {}
    means: dict[str, Group] = {}
    if len(first.right) != len(second.left):
        return None
    sizes = {**first.sizes, **second.sizes}
    for have, want in zip(first.right, second.left, strict=True):
        a, b = list(have), list(want)
        while a and b:
            if sizes[a[0]] == sizes[b[0]]:
                means[b.pop(0)] = (a.pop(0),)
            elif len(a) == 1:
                split[a.pop()] = tuple(b)
                b = []
            elif len(b) == 1:
                means[b.pop()] = tuple(a)
                a = []
            else:
                return None
        if any(sizes[atom] != ONE for atom in (*a, *b)):
            return None
        split |= {atom: () for atom in a}
        means |= {atom: () for atom in b}

    def apart(group: Group) -> Group:
        return tuple(inner for atom in group for inner in split.get(atom, (atom,)))

    left = tuple(apart(group) for group in first.left)
    right = tuple(
        apart(tuple(inner for atom in group for inner in means.get(atom, (atom,))))
        for group in second.right
    )
    return Move(left, right, sizes)
