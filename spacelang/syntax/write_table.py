"""Tables by a formula as the language writes them: `table([n, m]) |i, j| { return i - j }`."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from spacelang.ir.dim import Dim
from spacelang.ir.node import Attribute, Node
from spacelang.syntax.write_values import Speller, cannot

BETWEEN = {"+", "-", "*", "/", "//", "<", "<=", "==", "!=", "and", "or"}
BEFORE_TWO = {"min", "max", "power"}
INDICES = ("i", "j", "k", "l")


def table_text(node: Node, speller: Speller, free: Callable[[str], str]) -> str:
    """A table with its formula; `free` gives names for the indices."""
    shape, sizes = (_dims(node.attributes[name]) for name in ("shape", "sizes"))
    formula, index = node.attributes["formula"], node.attributes["index"]
    if not isinstance(formula, str):
        raise cannot("a table", "its formula is no text", node.span)
    names = [free(INDICES[min(axis, len(INDICES) - 1)]) for axis in range(len(shape))]
    known = {f"i{axis}": name for axis, name in enumerate(names)}
    known |= {f"n{n}": f"({speller.dim(size, node.span)})" for n, size in enumerate(sizes)}
    axes = ", ".join(speller.dim(size, node.span) for size in shape)
    option = ", index: true" if index is True else ""
    entry = _infix(formula, known)
    return f"table([{axes}]{option}) |{', '.join(names)}| {{ return {entry} }}"


def _dims(value: Attribute) -> list[Dim]:
    entries = value if isinstance(value, tuple) else (value,)
    return [entry for entry in entries if isinstance(entry, Dim)]


def _infix(words: str, known: dict[str, str]) -> str:
    """Words in postfix order (`spacelang.ops.formula`) as an expression."""
    stack: list[str] = []
    for word in words.split():
        if word in known:
            stack.append(known[word])
        elif word in BETWEEN:
            last = stack.pop()
            stack.append(f"({stack.pop()} {word} {last})")
        elif word in BEFORE_TWO:
            last = stack.pop()
            stack.append(f"{word}({stack.pop()}, {last})")
        elif word == "if":
            truth, other, value = stack.pop(), stack.pop(), stack.pop()
            stack.append(f"({value} if {truth} else {other})")
        elif word[-1].isdigit():
            number = Fraction(word)
            stack.append(f"({number})" if number < 0 or number.denominator > 1 else str(number))
        else:
            stack.append(f"{word}({stack.pop()})")
    (found,) = stack
    return found
