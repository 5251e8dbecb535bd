"""A backend: the names of what would be stored, in order."""

from spacelang.ir.graph import Graph


class ListBackend:
    name = "list"

    def lower(self, graph: Graph, options: object = None) -> list[str]:
        return list(graph.storages)
