"""Lexers of other programs, made from the tables of the one grammar.

    python -m spacelang.editor.build         # rewrites lexer.py and space.tmLanguage.json

`lexer.py` is for Pygments, the JSON is a TextMate grammar, as most editors read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from spacelang.files import atomic_write
from spacelang.grammars.loader import tables

FOLDER = Path(__file__).parent
# Keywords by what they do; all that is not here controls how a text is read.
DECLARING = ("block", "cell", "program", "space", "subnet")
CONSTANTS = ("false", "none", "true")
LOGIC = ("and", "in", "not", "or")

LEXER = '''\
"""A Pygments lexer of .space files, made by `python -m spacelang.editor.build`: do not edit."""

from __future__ import annotations

from pygments.lexer import RegexLexer, words
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Whitespace,
)

LOGIC = {logic}
CONSTANTS = {constants}
KEYWORDS = (
{keywords}
)


class SpaceLexer(RegexLexer):
    """Texts of neural-architecture search spaces."""

    name = "spacelang"
    aliases = ("space", "spacelang")
    filenames = ("*.space",)
    mimetypes = ("text/x-space",)
    url = ""
    version_added = ""

    tokens = {{  # noqa: RUF012
        "root": [
            (r"[ \\t\\f\\r\\n]+", Whitespace),
            (r"{comment}", Comment.Single),
            (r'{string}', String.Double),
            (r"{number}(?!\\w)", Number),
            (r"\\.(?={word})", Operator, "attribute"),
            (
                r"\\b({declaring})\\b(?=\\s+{word})",
                Keyword.Declaration,
                "declared",
            ),
            (words(LOGIC, prefix=r"\\b", suffix=r"\\b"), Operator.Word),
            (words(CONSTANTS, prefix=r"\\b", suffix=r"\\b"), Keyword.Constant),
            (words(KEYWORDS, prefix=r"\\b", suffix=r"\\b"), Keyword),
            (r"{word}(?=\\s*\\()", Name.Function),
            (r"{word}", Name),
            (r"{operators}", Operator),
            (r"{punctuation}", Punctuation),
        ],
        "attribute": [(r"{word}", Name.Attribute, "#pop")],
        "declared": [(r"\\s+", Whitespace), (r"{word}", Name.Class, "#pop")],
    }}
'''


def lexer() -> str:
    """The source of the Pygments lexer."""
    grammar = _words()
    keywords = "\n".join(f'    "{word}",' for word in grammar.pop("keywords").split("|"))
    tuples = {
        name: "(" + ", ".join(f'"{word}"' for word in grammar.pop(name).split("|")) + ")"
        for name in ("logic", "constants")
    }
    return LEXER.format(keywords=keywords, **tuples, **grammar)


def textmate() -> str:
    """The TextMate grammar, as JSON."""
    grammar = _words()

    word = grammar["word"]
    patterns: list[Mapping[str, object]] = [
        {"name": "comment.line.number-sign.space", "match": "#.*$"},
        {"name": "string.quoted.double.space", "match": grammar["string"]},
        {"name": "constant.numeric.space", "match": rf"\b{grammar['number']}(?!\w)"},
        {
            "match": rf"(\.)({word})",
            "captures": {
                "1": {"name": "keyword.operator.space"},
                "2": {"name": "variable.other.property.space"},
            },
        },
        {
            "match": rf"\b({grammar['declaring']})\s+({word})",
            "captures": {
                "1": {"name": "storage.type.space"},
                "2": {"name": "entity.name.type.space"},
            },
        },
        {"name": "keyword.operator.word.space", "match": rf"\b({grammar['logic']})\b"},
        {"name": "constant.language.space", "match": rf"\b({grammar['constants']})\b"},
        {"name": "keyword.control.space", "match": rf"\b({grammar['keywords']})\b"},
        {"name": "entity.name.function.space", "match": rf"\b{word}(?=\s*\()"},
        {"name": "keyword.operator.space", "match": grammar["operators"]},
        {"name": "punctuation.space", "match": grammar["punctuation"]},
    ]
    record = {
        "comment": "Made by `python -m spacelang.editor.build`; not to be edited.",
        "name": "spacelang",
        "scopeName": "source.space",
        "fileTypes": ["space"],
        "patterns": patterns,
    }
    return json.dumps(record, indent=2) + "\n"


def _words() -> dict[str, str]:
    """Parts of the grammar as regular expressions, and its words."""
    grammar = tables("space")
    words = sorted(text for text in grammar.literals if text[0].isalpha())
    signs = [text for text in grammar.literals if not text[0].isalpha()]
    plain = [w for w in words if w not in DECLARING and w not in LOGIC]
    punctuation = sorted(sign for sign in signs if sign in "()[]{},:")
    operators = sorted((s for s in signs if s not in punctuation), key=lambda s: (-len(s), s))
    return {
        "comment": grammar.patterns["COMMENT"].replace("\n", r"\n"),
        "string": grammar.patterns["STRING"].replace("\n", r"\n"),
        "number": grammar.patterns["NUMBER"],
        "word": grammar.patterns["WORD"],
        "declaring": "|".join(w for w in words if w in DECLARING),
        "logic": "|".join(w for w in words if w in LOGIC),
        "constants": "|".join(CONSTANTS),
        "keywords": "|".join(plain),
        "operators": "|".join(map(re.escape, operators)),
        "punctuation": "|".join(map(re.escape, punctuation)),
    }


FILES = {"lexer.py": lexer, "space.tmLanguage.json": textmate}


def main() -> None:
    for name, make in FILES.items():
        atomic_write(FOLDER / name, make())


if __name__ == "__main__":
    main()
