"""The language server: documents of an editor over the language server protocol, by pygls.

Diagnostics come when typing rests; a check that is overtaken by a newer text is thrown away. What a
request computes runs beside the loop, so that the next key press never waits for a proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path

from spacelang import __version__
from spacelang.diagnostics import Diagnostic, Label, Source, Span
from spacelang.editor.document import Document, Item

REST = 0.25  # seconds without a key press before a text is checked
Result = TypeVar("Result")

KINDS = {
    "keyword": lsp.CompletionItemKind.Keyword,
    "op": lsp.CompletionItemKind.Function,
    "function": lsp.CompletionItemKind.Function,
    "block": lsp.CompletionItemKind.Class,
    "option": lsp.CompletionItemKind.Property,
    "file": lsp.CompletionItemKind.File,
    "name": lsp.CompletionItemKind.Variable,
}
SEVERITIES = {
    "error": lsp.DiagnosticSeverity.Error,
    "warning": lsp.DiagnosticSeverity.Warning,
}


class SpaceServer(LanguageServer):
    """The server, the documents that are open, and the checks that wait."""

    @cached_property
    def documents(self) -> dict[str, Document]:
        """What is open, by address."""
        return {}

    @cached_property
    def texts(self) -> dict[Path, str]:
        """The texts of what is open, by the files that they stand for."""
        return {}

    @cached_property
    def waiting(self) -> dict[str, asyncio.Task[None]]:
        """The checks that wait for typing to rest."""
        return {}

    @cached_property
    def requests(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="request")

    @cached_property
    def checks(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="check")

    def document(self, uri: str) -> Document:
        """A document as it is now."""
        text = self.workspace.get_text_document(uri).source
        known = self.documents.get(uri)
        if known is None or known.source.text != text:
            path = Path(to_fs_path(uri) or "untitled.space")
            known = self.documents[uri] = Document(path, text, self.texts)
            self._tell_users(known.place, text)
        return known

    def _tell_users(self, file: Path, text: str | None) -> None:
        """A file has another text, or with None what was saved: what reads it is checked again."""
        if text == self.texts.get(file):
            return
        if text is None:
            self.texts.pop(file, None)
        else:
            self.texts[file] = text
        for uri in [u for u, known in self.documents.items() if file in known.used]:
            del self.documents[uri]
            self.check_soon(uri)

    async def beside(self, work: Callable[[], Result]) -> Result:
        """The result of some work that does not stop the loop."""
        return await asyncio.get_running_loop().run_in_executor(self.requests, work)

    def check_soon(self, uri: str, rest: float = REST) -> None:
        """Check a document when typing rests; others see its text at once."""
        self.document(uri)
        before = self.waiting.pop(uri, None)
        if before is not None:
            before.cancel()
        self.waiting[uri] = asyncio.get_running_loop().create_task(self._check(uri, rest))

    async def _check(self, uri: str, rest: float) -> None:
        await asyncio.sleep(rest)
        document = self.document(uri)

        def check() -> list[Diagnostic]:
            return list(document.checked.report) if self.documents.get(uri) is document else []

        found = await asyncio.get_running_loop().run_in_executor(self.checks, check)
        if self.documents.get(uri) is not document:
            return  # a newer text is on its way
        shown = [self._diagnostic(one, document.source) for one in found]
        version = self.workspace.get_text_document(uri).version
        self.text_document_publish_diagnostics(
            lsp.PublishDiagnosticsParams(uri=uri, diagnostics=shown, version=version)
        )

    def close(self, uri: str) -> None:
        """Forget a document."""
        task = self.waiting.pop(uri, None)
        if task is not None:
            task.cancel()
        known = self.documents.pop(uri, None)
        if known is not None:
            self._tell_users(known.place, None)
        self.text_document_publish_diagnostics(
            lsp.PublishDiagnosticsParams(uri=uri, diagnostics=[])
        )

    def _diagnostic(self, found: Diagnostic, source: Source) -> lsp.Diagnostic:
        """A finding; one in another file stands at the top of this one, with its place."""
        own = [label for label in (found.primary, *found.secondary) if _is_in(label, source)]
        lines = [found.headline, *(f"= {note}" for note in found.notes)]
        lines += [f"help: {found.help}"] if found.help else []
        related = [
            lsp.DiagnosticRelatedInformation(self.location(label.span), label.text or "here")
            for label in (found.primary, *found.secondary)
            if label.span.source.text and label is not (own[0] if own else None)
        ]
        return lsp.Diagnostic(
            range=self.range(own[0].span if own else Span(source, 0, 0)),
            message="\n".join(lines),
            severity=SEVERITIES[found.severity],
            code=found.code,
            source="spacelang",
            related_information=related,
        )

    # Places.

    def location(self, span: Span) -> lsp.Location:
        uri = from_fs_path(span.source.name) or span.source.name
        return lsp.Location(uri=uri, range=self.range(span))

    def range(self, span: Span) -> lsp.Range:
        start, end = (self._position(span.source, offset) for offset in (span.start, span.end))
        return lsp.Range(start, end)

    def _position(self, source: Source, offset: int) -> lsp.Position:
        line, column = source.position(min(offset, len(source.text)))
        before = source.line(line)[: column - 1]
        return lsp.Position(line=line - 1, character=self._units(before))

    def offset(self, source: Source, position: lsp.Position) -> int:
        """The character offset of a position; one outside of the text is brought into it."""
        if position.line >= len(source.starts):
            return len(source.text)
        line = source.line(position.line + 1)
        column, units = 0, 0
        while column < len(line) and units < position.character:
            units += self._units(line[column])
            column += 1
        return source.starts[position.line] + column

    def _units(self, text: str) -> int:
        """The length of a text in the units that the client counts in."""
        match self.server_capabilities.position_encoding:
            case lsp.PositionEncodingKind.Utf8:
                return len(text.encode("utf-8", "surrogatepass"))
            case lsp.PositionEncodingKind.Utf32:
                return len(text)
            case _:
                return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _is_in(label: Label, source: Source) -> bool:
    return label.span.source.name == source.name


def serve() -> SpaceServer:
    """A server with all that it answers."""
    server = SpaceServer("spacelang", __version__)

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    async def opened(params: lsp.DidOpenTextDocumentParams) -> None:
        server.check_soon(params.text_document.uri, 0)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    async def changed(params: lsp.DidChangeTextDocumentParams) -> None:
        server.check_soon(params.text_document.uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    async def saved(params: lsp.DidSaveTextDocumentParams) -> None:
        """Other files may use what was saved: all are checked again."""
        for uri in list(server.documents):
            server.documents.pop(uri)
            server.check_soon(uri, 0)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    async def closed(params: lsp.DidCloseTextDocumentParams) -> None:
        server.close(params.text_document.uri)

    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    async def hover(params: lsp.HoverParams) -> lsp.Hover | None:
        document = server.document(params.text_document.uri)
        offset = server.offset(document.source, params.position)
        found = await server.beside(lambda: document.hover(offset))
        if found is None:
            return None
        content = lsp.MarkupContent(lsp.MarkupKind.Markdown, found.text)
        return lsp.Hover(content, server.range(found.span))

    @server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
    async def definition(params: lsp.DefinitionParams) -> lsp.Location | None:
        document = server.document(params.text_document.uri)
        offset = server.offset(document.source, params.position)
        found = await server.beside(lambda: document.definition(offset))
        return None if found is None else server.location(found)

    @server.feature(
        lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(trigger_characters=[">", "("])
    )
    async def completion(params: lsp.CompletionParams) -> lsp.CompletionList:
        document = server.document(params.text_document.uri)
        offset = server.offset(document.source, params.position)
        found = await server.beside(lambda: document.complete(offset))
        return lsp.CompletionList(is_incomplete=False, items=list(map(_completion, found)))

    @server.feature(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
    async def prepare_rename(params: lsp.PrepareRenameParams) -> lsp.Range | None:
        document = server.document(params.text_document.uri)
        found = document.renamed(server.offset(document.source, params.position))
        return None if found is None else server.range(found[1])

    @server.feature(lsp.TEXT_DOCUMENT_RENAME, lsp.RenameOptions(prepare_provider=True))
    async def rename(params: lsp.RenameParams) -> lsp.WorkspaceEdit:
        uri = params.text_document.uri
        document = server.document(uri)
        offset = server.offset(document.source, params.position)
        try:
            places = await server.beside(lambda: document.rename(offset, params.new_name))
        except ValueError as failed:
            raise JsonRpcInvalidParams(str(failed)) from None
        edits = [lsp.TextEdit(server.range(place), params.new_name) for place in places]
        return lsp.WorkspaceEdit(changes={uri: edits})

    @server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
    async def formatting(params: lsp.DocumentFormattingParams) -> list[lsp.TextEdit]:
        document = server.document(params.text_document.uri)
        text = await server.beside(document.formatted)
        if text is None or text == document.source.text:
            return []
        whole = Span(document.source, 0, len(document.source.text))
        return [lsp.TextEdit(server.range(whole), text)]

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    async def outline(params: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
        symbols = server.document(params.text_document.uri).symbols
        shown = [s for s in symbols.all if s.kind in ("space", "block")] if symbols else []
        return [
            lsp.DocumentSymbol(
                name=s.name,
                kind=lsp.SymbolKind.Class if s.kind == "space" else lsp.SymbolKind.Function,
                range=server.range(s.node.span),
                selection_range=server.range(s.declared),
            )
            for s in shown
        ]

    return server


def _completion(item: Item) -> lsp.CompletionItem:
    name = item.name.rstrip(": ")
    return lsp.CompletionItem(
        label=name, kind=KINDS[item.kind], detail=item.detail, insert_text=item.name
    )
