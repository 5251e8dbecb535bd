"""The language server, asked by a real client over stdin and stdout; and the names of a text."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spacelang.diagnostics import Source
from spacelang.editor.document import Document, replaced
from spacelang.editor.symbols import Symbols

pytest.importorskip("pygls")
from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcException
from pygls.lsp.client import BaseLanguageClient

ROOT = Path(__file__).resolve().parent.parent
SPACES = sorted((ROOT / "spaces").rglob("*.space"))
TEXT = """\
use vit
# größe: 𝄞 needs two units of UTF-16
block layer(x: [B, C], factor) -> [B, C] { return mlp(x, C * factor) as mlp }
space small(classes = 10) {
  input x: [B, 12]  # 𝄞𝄞
  choose width in {8, 16}
  h = linear(x, width) as stem |> layer(factor: 2) as body
  output linear(h, classes) as head
  weights { _: entangle  width: entangle }
}
subnet least of small { width = 8 }
"""
BROKEN = [
    "",
    "space",
    "space s {",
    "}}}}",
    "space s { input x: [B, 1] output x",
    "\x00\x01",
    "\ufeffspace s { }",
    "block f(x) { return f(x) }\nspace s { input x: [B, 3] output f(x) }",
    '"',
    "use nothing\nuse ../../etc/passwd",
    f"use {'a' * 260}",
    f"use {'a' * 260}.b",
    "(" * 3000,
    "space s {\r\n input x: [B, 4]\r output x\u2028 }",
    "a = " + "1 + " * 5000,
    "𝄞" * 100,
]


class Client(BaseLanguageClient):
    """A client that keeps what the server publishes."""

    def __init__(self) -> None:
        super().__init__("tests", "1")
        self.published: dict[str, lsp.PublishDiagnosticsParams] = {}
        self.news = asyncio.Event()

        @self.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def publish(params: lsp.PublishDiagnosticsParams) -> None:
            self.published[params.uri] = params
            self.news.set()

    def open(self, uri: str, text: str) -> None:
        item = lsp.TextDocumentItem(uri=uri, language_id="space", version=1, text=text)
        self.text_document_did_open(lsp.DidOpenTextDocumentParams(item))

    def change(self, uri: str, version: int, text: str, where: lsp.Range | None = None) -> None:
        whole = lsp.TextDocumentContentChangeWholeDocument(text=text)
        part = lsp.TextDocumentContentChangePartial(range=where, text=text) if where else whole
        document = lsp.VersionedTextDocumentIdentifier(uri=uri, version=version)
        self.text_document_did_change(lsp.DidChangeTextDocumentParams(document, [part]))

    async def diagnostics(
        self, uri: str, version: int, seconds: float = 30
    ) -> list[lsp.Diagnostic]:
        """What the server says of a version of a text."""
        async with asyncio.timeout(seconds):
            while uri not in self.published or self.published[uri].version != version:
                self.news.clear()
                await self.news.wait()
        return list(self.published[uri].diagnostics)


@asynccontextmanager
async def connected(encodings: list[str] | None = None) -> AsyncIterator[Client]:
    client = Client()
    await client.start_io(sys.executable, "-m", "spacelang", "lsp", cwd=str(ROOT))
    try:
        general = lsp.GeneralClientCapabilities(position_encodings=encodings)
        capabilities = lsp.ClientCapabilities(general=general)
        await client.initialize_async(lsp.InitializeParams(capabilities=capabilities))
        client.initialized(lsp.InitializedParams())
        yield client
    finally:
        await client.shutdown_async(None)
        client.exit(None)
        await client.stop()
        assert client._server is not None
        assert client._server.returncode == 0, "the server ended in good order"


def talk(story: Callable[[Client], Awaitable[None]], encodings: list[str] | None = None) -> None:
    """Run a story with a server of its own."""

    async def run() -> None:
        async with asyncio.timeout(120), connected(encodings) as client:
            await story(client)

    asyncio.run(run())


def at(text: str, words: str, shift: int = 0, encoding: str = "utf-16") -> lsp.Position:
    """The position of some words, in the units of an encoding."""
    offset = text.index(words) + shift
    line = text.count("\n", 0, offset)
    before = text[text.rfind("\n", 0, offset) + 1 : offset]
    units = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[encoding]
    suffix = "" if encoding == "utf-8" else "-le"
    return lsp.Position(line, len(before.encode(encoding + suffix)) // units)


def where(uri: str, text: str, words: str, shift: int = 0) -> dict[str, Any]:
    return {"text_document": lsp.TextDocumentIdentifier(uri), "position": at(text, words, shift)}


@pytest.fixture
def uri(tmp_path: Path) -> str:
    file = tmp_path / "small.space"
    file.write_text(TEXT)
    return file.as_uri()


def test_a_session(uri: str) -> None:
    async def story(client: Client) -> None:
        client.open(uri, TEXT)
        assert await client.diagnostics(uri, 1) == []
        document = lsp.TextDocumentIdentifier(uri)

        # Hover: counts, costs, candidates, signatures.
        for words, shift, told in (
            ("space small", 8, "**small**: 2 architectures, 1 decision"),
            ("subnet least", 8, "1 architecture, no decisions"),
            ("choose width", 8, "small: 8, 16"),
            ("linear(x, width)", 2, "208 parameters, 192 mult"),
            ("block layer", 7, "block layer(x: [B, C], factor) -> [B, C]"),
            ("mlp(x", 1, "of `vit.space`"),
            ("classes) as head", 2, "space small(classes = 10) {"),
        ):
            found = await client.text_document_hover_async(
                lsp.HoverParams(**where(uri, TEXT, words, shift))
            )
            assert found is not None, words
            assert told in found.contents.value, (words, found.contents.value)
        assert await client.text_document_hover_async(
            lsp.HoverParams(**where(uri, TEXT, "größe"))
        ) is None  # fmt: skip

        # Definition: here, and in another file.
        found = await client.text_document_definition_async(
            lsp.DefinitionParams(**where(uri, TEXT, "layer(factor", 1))
        )
        assert (found.uri, found.range.start) == (uri, at(TEXT, "block layer", 6))
        found = await client.text_document_definition_async(
            lsp.DefinitionParams(**where(uri, TEXT, "mlp(x", 1))
        )
        assert found.uri.endswith("/spaces/lib/vit.space")
        found = await client.text_document_definition_async(
            lsp.DefinitionParams(**where(uri, TEXT, "use vit", 5))
        )
        assert found.uri.endswith("/spaces/lib/vit.space")

        # Completion.
        text = TEXT.replace("|> layer", "|> lay")
        client.change(uri, 2, text)
        items = await client.text_document_completion_async(
            lsp.CompletionParams(**where(uri, text, "|> lay", 6))
        )
        assert [i.label for i in items.items] == ["layer", "layer_norm"]
        client.change(uri, 3, TEXT)

        # Rename: everywhere, also behind characters of two units.
        edit = await client.text_document_rename_async(
            lsp.RenameParams(**where(uri, TEXT, "width in", 1), new_name="wide")
        )
        edits = edit.changes[uri]
        assert len(edits) == 4
        assert applied(TEXT, edits) == TEXT.replace("width", "wide")
        place = await client.text_document_prepare_rename_async(
            lsp.PrepareRenameParams(**where(uri, TEXT, "width in", 1))
        )
        assert place.start == at(TEXT, "width in")
        for name in ("for", "1x", "h", "linear", ""):
            with pytest.raises(JsonRpcException):
                await client.text_document_rename_async(
                    lsp.RenameParams(**where(uri, TEXT, "width in", 1), new_name=name)
                )

        # Layout.
        untidy = TEXT.replace("choose width", "choose    width")
        client.change(uri, 4, untidy)
        options = lsp.FormattingOptions(tab_size=2, insert_spaces=True)
        edits = await client.text_document_formatting_async(
            lsp.DocumentFormattingParams(document, options)
        )
        tidy = applied(untidy, edits)
        assert "choose width in" in tidy
        client.change(uri, 5, tidy)
        assert await client.text_document_formatting_async(
            lsp.DocumentFormattingParams(document, options)
        ) in ([], (), None)  # fmt: skip

        outline = await client.text_document_document_symbol_async(
            lsp.DocumentSymbolParams(document)
        )
        assert [s.name for s in outline] == ["layer", "small", "least"]

        client.text_document_did_close(lsp.DidCloseTextDocumentParams(document))

    talk(story)


def applied(text: str, edits: list[lsp.TextEdit]) -> str:
    """A text after edits in UTF-16."""
    lines = text.splitlines(keepends=True)

    def offset(position: lsp.Position) -> int:
        line = lines[position.line] if position.line < len(lines) else ""
        before = line.encode("utf-16-le")[: 2 * position.character].decode("utf-16-le")
        return sum(map(len, lines[: position.line])) + len(before)

    for edit in sorted(edits, key=lambda e: offset(e.range.start), reverse=True):
        text = text[: offset(edit.range.start)] + edit.new_text + text[offset(edit.range.end) :]
    return text


def test_diagnostics_as_one_types(uri: str) -> None:
    """Each key press is a version; the last is checked, and all on the way may be broken."""

    async def story(client: Client) -> None:
        client.open(uri, "")
        text = TEXT.replace("width) as stem", "width / 3) as stem")
        for version, end in enumerate(range(1, len(text) + 1), 2):
            client.change(uri, version, text[:end])
        (found,) = await client.diagnostics(uri, len(text) + 1)
        assert found.code == "SP302"
        assert found.range.start == at(text, "linear(x, width / 3)")
        assert found.severity == lsp.DiagnosticSeverity.Error
        assert len(client.published) == 1
        client.change(uri, len(text) + 2, "", lsp.Range(at(text, " / 3"), at(text, ") as stem")))
        assert await client.diagnostics(uri, len(text) + 2) == []

    talk(story)


def test_an_error_in_a_borrowed_block_stands_at_its_call(uri: str) -> None:
    text = """use vit
space s {
  input x: [B, 3, 10, 10]
  y = patch_embed(x, 8, patch: 3) as stem
  output mean(y, axes: [1, 2]) |> linear(2) as head
}
"""

    async def story(client: Client) -> None:
        client.open(uri, text)
        (found,) = await client.diagnostics(uri, 1)
        assert found.code == "SP303"
        assert found.range.start == at(text, "patch_embed(x")
        assert found.related_information is not None
        assert any(r.location.uri.endswith("vit.space") for r in found.related_information)

    talk(story)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_positions_are_in_the_units_of_the_client(uri: str, encoding: str) -> None:
    text = TEXT.replace("input x: [B, 12]  # 𝄞𝄞", 'input x: [B, 12]  let t = "𝄞𝄞" let u = nothing')

    async def story(client: Client) -> None:
        client.open(uri, text)
        found = await client.diagnostics(uri, 1)
        wanted = at(text, "nothing", 0, encoding)
        assert wanted in [one.range.start for one in found]

    talk(story, [encoding])


def test_malformed_texts_and_places(uri: str) -> None:
    """Whatever the text and the place, a request is answered."""

    async def story(client: Client) -> None:
        client.open(uri, "")
        document = lsp.TextDocumentIdentifier(uri)
        for version, text in enumerate(BROKEN, 2):
            client.change(uri, version, text)
            for line, character in ((0, 0), (0, 3), (1, 10_000), (99_999, 0)):
                here = {"text_document": document, "position": lsp.Position(line, character)}
                await client.text_document_hover_async(lsp.HoverParams(**here))
                await client.text_document_definition_async(lsp.DefinitionParams(**here))
                await client.text_document_completion_async(lsp.CompletionParams(**here))
                await client.text_document_prepare_rename_async(lsp.PrepareRenameParams(**here))
                with pytest.raises(JsonRpcException):
                    await client.text_document_rename_async(
                        lsp.RenameParams(**here, new_name="space")
                    )
            options = lsp.FormattingOptions(tab_size=2, insert_spaces=True)
            await client.text_document_formatting_async(
                lsp.DocumentFormattingParams(document, options)
            )
            await client.text_document_document_symbol_async(lsp.DocumentSymbolParams(document))
            found = await client.diagnostics(uri, version)
            assert bool(found) == bool(text), text[:50]
        client.change(uri, 99, TEXT)
        assert await client.diagnostics(uri, 99) == []

    talk(story)


def test_a_big_file(uri: str) -> None:
    """5,000 lines: requests are answered while the check runs; more than 1 MiB is refused."""
    blocks = "\n".join(
        f"block f{i}(x: [B, C]) -> [B, C] {{\n  y = linear(x, 2 * C) as up\n"
        f"  return linear(relu(y), C) as down\n}}"
        for i in range(1240)
    )
    text = f"{blocks}\nspace s {{\n  input x: [B, 8]\n  output f7(x) as a |> f1239 as b\n}}\n"
    assert text.count("\n") > 4900

    async def story(client: Client) -> None:
        client.open(uri, text)
        found = await client.text_document_definition_async(
            lsp.DefinitionParams(**where(uri, text, "f1239 as b", 1))
        )
        assert found.range.start == at(text, "block f1239", 6)
        assert await client.diagnostics(uri, 1) == []
        client.change(uri, 2, "# " + "x" * (1 << 20))
        (found,) = await client.diagnostics(uri, 2)
        assert found.code == "SP102"

    talk(story)


def test_other_files_are_read_as_they_stand_in_the_editor(tmp_path: Path) -> None:
    """What is typed in a file that another uses is known there, and forgotten when it is closed."""
    saved = "block layer(x: [B, C]) -> [B, C] { return linear(x, C) as fc }\n"
    text = "use parts\nspace s {\n  input x: [B, 4]\n  output layer(x) as fc\n}\n"
    (tmp_path / "parts.space").write_text(saved)
    (tmp_path / "whole.space").write_text(text)
    parts, whole = ((tmp_path / f"{name}.space").as_uri() for name in ("parts", "whole"))

    async def story(client: Client) -> None:
        async def again() -> list[str | int | None]:
            found = await client.diagnostics(whole, 1)
            del client.published[whole]
            return [one.code for one in found]

        client.open(whole, text)
        assert await again() == []
        typed = saved.replace("layer", "cover")
        client.open(parts, saved)
        client.change(parts, 2, typed)
        assert await again() == ["SP201"]
        client.change(parts, 3, saved.replace("block", "\n\nblock"))
        assert await again() == []
        found = await client.text_document_definition_async(
            lsp.DefinitionParams(**where(whole, text, "layer(x)", 1))
        )
        assert (found.uri, found.range.start.line) == (parts, 2)
        client.change(parts, 4, typed)
        assert await again() == ["SP201"]
        document = lsp.TextDocumentIdentifier(parts)
        client.text_document_did_close(lsp.DidCloseTextDocumentParams(document))
        assert await again() == []

    talk(story)


def test_without_the_extra(fresh_python: Callable[..., str]) -> None:
    program = (
        "import sys; sys.modules['pygls'] = None; sys.modules['lsprotocol'] = None\n"
        "from spacelang.cli.main import commands\n"
        "try: commands.main(['lsp'])\n"
        "except SystemExit as ended: print(ended.code)"
    )
    assert fresh_python("-c", program).split() == ["3"]


# The names of a text.


@pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)
def test_every_place_of_a_symbol_is_its_name(path: Path) -> None:
    document = Document(path, path.read_text())
    symbols = document.symbols
    assert symbols is not None
    for symbol in symbols.all:
        assert {place.text for place in symbol.places} == {symbol.name}
    for name, place in symbols.free:
        assert place.text == name
    assert document.formatted() == path.read_text()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("heads in", "h2"), ("ratio in", "r2"), ("width in", "w2"), ("reach = 14", "far"),
        ("grid, dim", "map"), ("ratios, stored", "r2"),
    ],
)  # fmt: skip
def test_a_renamed_file_is_the_same_file(words: str, name: str) -> None:
    """Each is renamed and back: the text is what it was, and it checks in between."""
    path = ROOT / "spaces" / "autoformer.space"
    text = path.read_text()
    offset = text.index(words)
    document = Document(path, text)
    places = document.rename(offset, name)
    other = Document(path, replaced(text, places, name))
    assert not other.checked.report.errors
    assert other.source.text != text
    assert len(other.checked.graphs) == len(document.checked.graphs)
    old = text[offset:].partition(" ")[0].strip(",")
    back = other.rename(offset, old)
    assert replaced(other.source.text, back, old) == text


def test_an_argument_above_the_block_that_it_is_of_is_renamed_with_it() -> None:
    text = """\
block a(x: [B, C]) -> [B, 4] { return b(x, out: 4) as p }
block b(x: [B, C], out) -> [B, out] { return linear(x, out) as fc }
"""
    places = Document(Path("t.space"), text).rename(text.index("out)"), "wide")
    assert replaced(text, places, "wide") == text.replace("out", "wide")


def test_what_another_file_uses_is_not_renamed(tmp_path: Path) -> None:
    """Its places in the other file would stay; a name that no other file sees is free."""
    text = """\
let wide = 4
block layer(x: [B, C], out) -> [B, out] { h = linear(x, out) as fc return relu(h) }
"""
    path, user = tmp_path / "lib" / "parts.space", tmp_path / "whole.space"
    path.parent.mkdir()
    path.write_text(text)
    seen = ("wide", "layer", "out)")
    for words in (*seen, "h =", "C]"):
        assert Document(path, text).rename(text.index(words), "other")
    user.write_text("use lib.parts\n")
    for words in ("h =", "C]"):
        assert Document(path, text).rename(text.index(words), "other")
    for words in seen:
        with pytest.raises(ValueError, match=r"whole\.space uses this file"):
            Document(path, text).rename(text.index(words), "other")
    open_texts = {user.resolve(): "# nothing is used yet"}
    assert Document(path, text, open_texts).rename(text.index("layer"), "other")


def test_hover_of_a_decision_tells_of_no_other_of_its_name() -> None:
    text = """\
block a(x: [B, C]) { choose r in {1, 2} return linear(x, r * C) as up |> linear(C) as down }
block b(x: [B, C]) { choose r in {3, 5} return linear(x, r * C) as up |> linear(C) as down }
space s { input x: [B, 4] output a(x) as a |> b as b |> b as c weights { _: entangle } }
"""
    document = Document(Path("t.space"), text)
    for words, told in (("r in {1", "- s: 1, 2"), ("r in {3", "- s: 3, 5 (2 places)")):
        found = document.hover(text.index(words))
        assert found is not None
        assert found.text == f"decision `r`\n{told}"


def test_ends_of_lines_stay_when_a_text_is_laid_out() -> None:
    tidy = "# one\r\nspace s {\r\n  input x: [B, 4]\r\n  output x  # two\r\n}\r\n"
    assert Document(Path("t.space"), tidy).formatted() == tidy
    untidy = tidy.replace("[B, 4]", "[B,4]")
    assert Document(Path("t.space"), untidy).formatted() == tidy


def test_hover_of_a_program() -> None:
    path = ROOT / "spaces" / "cdarts.space"
    text = path.read_text()
    found = Document(path, text).hover(text.index("program cifar10_cycles") + 10)
    assert found is not None
    assert found.text == "the program `cifar10_cycles`: 24 decisions"


def test_scopes() -> None:
    symbols = Symbols(Source("<t>", TEXT))
    x = [s for s in symbols.all if s.name == "x"]
    assert [len(s.places) for s in x] == [2, 2]
    (width,) = (s for s in symbols.all if s.name == "width")
    assert len(width.places) == 4
    (factor,) = (s for s in symbols.all if s.name == "factor")
    assert len(factor.places) == 3
    assert {n for n, _ in symbols.free} == {"B", "mlp", "linear"}
