"""Modules and parts of the package that import each other in a circle; test_house_rules.py forbids them."""

import ast
from collections.abc import Iterator, Mapping, Sequence

from tests.house_rules import Source


def circles(package: Sequence[Source]) -> list[str]:
    """No modules, and no parts of the package, import each other in a circle; imports inside functions count.

    The facades (``__init__`` files that import on first use) and imports of the facade itself (its version) do not.
    """
    modules = {_module(source.path): source for source in package}
    imports = {
        name: {
            found for node in _imported_names(source) for found in [_known(node, modules)] if found not in ("", name)
        }
        for name, source in modules.items()
        if "_NAMES = {" not in source.text
    }
    parts: dict[str, set[str]] = {}
    for name, found in imports.items():
        own = parts.setdefault(_part(name), set())
        own |= {_part(other) for other in found} - {_part(name)}
    return [
        f"{' and '.join(circle)} import each other"
        for graph in (imports, parts)
        for circle in _strongly_connected(graph)
        if len(circle) > 1
    ]


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _part(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _imported_names(source: Source) -> Iterator[str]:
    """Yield what every import names, ``from a import b`` as a.b, wherever it stands."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _known(name: str, modules: Mapping[str, Source]) -> str:
    """Return the module that is imported: the name itself, or what the name is in; "" for others and the facade."""
    found = name if name in modules else name.rpartition(".")[0]
    return found if found in modules and found != "rlhf_game" else ""


def _strongly_connected(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the sets of nodes that reach each other: Kosaraju's two passes."""
    order: list[str] = []
    back: dict[str, set[str]] = {}
    for node, others in graph.items():
        for other in others:
            back.setdefault(other, set()).add(node)

    def visit(start: str, edges: Mapping[str, set[str]], seen: set[str]) -> list[str]:
        """Return what is reached from ``start`` and was not seen, each node after those that it reaches."""
        found, waiting = [], [(start, False)]
        while waiting:
            node, is_done = waiting.pop()
            if is_done:
                found.append(node)
            elif node not in seen:
                seen.add(node)
                waiting += [(node, True), *((other, False) for other in sorted(edges.get(node, ())))]
        return found

    seen: set[str] = set()
    for node in sorted(graph):
        if node not in seen:
            order += visit(node, graph, seen)
    seen = set()
    return [sorted(visit(node, back, seen)) for node in reversed(order) if node not in seen]
