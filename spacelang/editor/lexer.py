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

LOGIC = ("and", "in", "not", "or")
CONSTANTS = ("false", "none", "true")
KEYWORDS = (
    "as",
    "by",
    "choose",
    "default",
    "else",
    "for",
    "from",
    "if",
    "input",
    "let",
    "like",
    "names",
    "of",
    "output",
    "require",
    "return",
    "rewrite",
    "search",
    "use",
    "weights",
    "when",
    "within",
)


class SpaceLexer(RegexLexer):
    """Texts of neural-architecture search spaces."""

    name = "spacelang"
    aliases = ("space", "spacelang")
    filenames = ("*.space",)
    mimetypes = ("text/x-space",)
    url = ""
    version_added = ""

    tokens = {  # noqa: RUF012
        "root": [
            (r"[ \t\f\r\n]+", Whitespace),
            (r"#[^\n]*", Comment.Single),
            (r'"[^"\n]*"', String.Double),
            (r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+|[KMG])?(?!\w)", Number),
            (r"\.(?=[A-Za-z_][A-Za-z0-9_]*)", Operator, "attribute"),
            (
                r"\b(block|cell|program|space|subnet)\b(?=\s+[A-Za-z_][A-Za-z0-9_]*)",
                Keyword.Declaration,
                "declared",
            ),
            (words(LOGIC, prefix=r"\b", suffix=r"\b"), Operator.Word),
            (words(CONSTANTS, prefix=r"\b", suffix=r"\b"), Keyword.Constant),
            (words(KEYWORDS, prefix=r"\b", suffix=r"\b"), Keyword),
            (r"[A-Za-z_][A-Za-z0-9_]*(?=\s*\()", Name.Function),
            (r"[A-Za-z_][A-Za-z0-9_]*", Name),
            (r"\.\.<|!=|\->|\.\.|//|<=|==|>=|\|>|%|\*|\+|\-|\.|/|<|=|>|\|", Operator),
            (r"\(|\)|,|:|\[|\]|\{|\}", Punctuation),
        ],
        "attribute": [(r"[A-Za-z_][A-Za-z0-9_]*", Name.Attribute, "#pop")],
        "declared": [(r"\s+", Whitespace), (r"[A-Za-z_][A-Za-z0-9_]*", Name.Class, "#pop")],
    }
