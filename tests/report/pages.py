"""Reports read back as a browser would: elements, texts, tables and the CSV behind each figure."""

import base64
import csv
import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass
class Node:
    name: str
    attributes: dict[str, str]
    parent: "Node | None" = None
    children: "list[Node | str]" = field(default_factory=list)

    def all(self, name: str = "", **attributes: str) -> "list[Node]":
        """Every element below, in order, of that name and with these attributes (class_: one of its classes)."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                if name in ("", child.name) and all(child.has(key, value) for key, value in attributes.items()):
                    found.append(child)
                found += child.all(name, **attributes)
        return found

    def has(self, key: str, value: str) -> bool:
        if key == "class_":
            return value in self.attributes.get("class", "").split()
        return self.attributes.get(key.replace("_", "-")) == value

    def one(self, name: str = "", **attributes: str) -> "Node":
        (found,) = self.all(name, **attributes)
        return found

    @property
    def text(self) -> str:
        return "".join(child.text if isinstance(child, Node) else child for child in self.children)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Node("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {key: value or "" for key, value in attrs}, self.at)
        self.at.children.append(node)
        if tag not in VOID:
            self.at = node

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.at.name == tag, f"</{tag}> inside <{self.at.name}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)


def read(text: str) -> Node:
    """Return the tree of a document; fails where an element is not closed in its turn."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.at is reader.root
    return reader.root


def page_of(path: Path) -> Node:
    return read(path.read_text(encoding="utf-8"))


def data_of(page: Node, key: str) -> list[dict[str, str]]:
    """Return the CSV behind a figure or a table, as a person would download it."""
    link = page.one(id=key).one("a", class_="csv")
    assert link.attributes["download"] == f"{key}.csv"
    head, _, content = link.attributes["href"].partition("base64,")
    assert head == "data:text/csv;charset=utf-8;"
    return list(csv.DictReader(io.StringIO(base64.b64decode(content).decode("utf-8-sig"))))
