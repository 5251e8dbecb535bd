"""Errors of a space, beside the parameters of it that --set gave a value.

14 | space deit(width, heads, image = 224, classes = 1000) {
   |                                       -------------- --set classes=0
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spacelang.diagnostics import NOWHERE, Diagnostic, SpaceError

if TYPE_CHECKING:
    from spacelang.diagnostics import Span


@contextmanager
def at_parameters(address: str, settings: Mapping[str, object]) -> Generator[None]:
    """Errors that are raised here also show where the parameters are that `settings` fill."""
    try:
        yield
    except SpaceError as failed:
        raise SpaceError(shown_at(failed.diagnostics, address, settings)) from None


def shown_at(
    diagnostics: Iterable[Diagnostic], address: str, settings: Mapping[str, object]
) -> Iterator[Diagnostic]:
    """Diagnostics with a place, each with the parameters that are set."""
    from spacelang.syntax.literal import literal

    places = _declared(address, settings) if settings else {}
    for found in diagnostics:
        if found.primary.span.source is not NOWHERE.source:
            for name, span in places.items():
                found = found.also(span, f"--set {name}={literal(settings[name])}")
        yield found


def _declared(address: str, settings: Mapping[str, object]) -> dict[str, Span]:
    """Where the parameters that are set are declared, in the space or in what it is made from."""
    from spacelang.loader import open_address
    from spacelang.syntax import tree
    from spacelang.syntax.parse import parse
    from spacelang.syntax.scope import Library
    from spacelang.syntax.spaces import MAX_CHAIN, base_of
    from spacelang.syntax.values import SpaceValue

    found: dict[str, Span] = {}
    try:
        source, wanted = open_address(address)
        folder = Path(source.name).parent
        names = Library(folder).scope(parse(source), folder).names
        spaces = [value for value in names.values() if isinstance(value, SpaceValue)]
        here = names.get(wanted) if wanted else next(reversed(spaces), None)
        for _ in range(MAX_CHAIN):
            if not isinstance(here, SpaceValue):
                break
            if not isinstance(here.definition, tree.Subnet):
                for param in here.definition.params:
                    if param.name in settings:
                        found.setdefault(param.name, param.span)
            here = base_of(here)
    except SpaceError:
        return found
    return found
