"""Hooks of mkdocs: formulas, and links to files of the repository outside docs lead to copies of them in the site.

A page may say ../README.md or ../examples/run.yaml, which works on any host of the repository. In the site such a file
is served from repository/; a page of Markdown becomes a page, a folder becomes a list of its files. A link to a file
that does not exist fails the build.

Formulas are LaTeX between dollar signs, as hosts of repositories show them; in the site they become MathML, which
browsers draw without a script and without a network.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\w\\$])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])", re.S)
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.S | re.M)
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
PROGRAM = re.compile(r"(?<!\[)`((?:tests|measurements|benchmarks)/[\w/]+\.py)((?:::\w+)?)`(?!\])")
"""What a page says of a test, or of what measured it, in the site a link to it."""
FOLDER = "repository"
PLAY = "try-to-cheat.html"
"""The page to cheat on, which play.md leads to."""


def is_page(path: str) -> bool:
    """Return whether a path of the repository is the site's own: all of docs but its programs."""
    return path.startswith("docs/") and not path.endswith(".py")


def place(path: str) -> str:
    """Return where a file or folder of the repository is in the site."""
    inside = path.removeprefix("docs/") if is_page(path) else f"{FOLDER}/{path}"
    return f"{inside}/index.md" if (ROOT / path).is_dir() else inside


def targets(text: str, path: str) -> list[str]:
    """Return what a page of the repository links to in the site, as paths from the root of the repository."""
    links = LINK.findall(with_programs(text, path))
    return [posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for link, _ in links]


def with_programs(text: str, path: str) -> str:
    """Return a page whose names of tests and measurements are links to them."""
    up = "../" * path.count("/")
    return PROGRAM.sub(lambda name: f"[`{name[1]}{name[2]}`]({up}{name[1]})", text)


def listing(folder: Path) -> str:
    """Return a page with the names of a folder's files."""
    rows = [f"* [{path.name}]({path.name})" for path in sorted(folder.iterdir()) if path.is_file()]
    return f"# {folder.relative_to(ROOT).as_posix()}\n\n" + "\n".join(rows) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Add the page to cheat on, the schemas of files, the files that pages link to, and those that these link to."""
    from mkdocs.structure.files import File, InclusionLevel

    from rlhf_game.cli.schema import SchemaKind, schema_text
    from rlhf_game.report.play import play_page

    served = {PLAY: play_page()} | {f"schemas/{of.value}.schema.json": schema_text(of) for of in SchemaKind}
    for uri, content in served.items():
        files.append(File.generated(config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV))

    pages = {f"docs/{file.src_uri}": Path(file.abs_src_path).read_text("utf-8") for file in files.documentation_pages()}
    waiting = [target for path, text in pages.items() for target in targets(text, path)]
    while waiting:
        target = waiting.pop()
        path, uri = ROOT / target, place(target)
        if uri in files.src_uris or not path.exists() or is_page(target):
            continue
        text = listing(path) if path.is_dir() else path.read_text("utf-8")
        files.append(File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
        if path.is_dir():
            waiting += [f"{target}/{file.name}" for file in path.iterdir() if file.is_file()]
        elif target.endswith(".md"):
            waiting += targets(text, target)
    return files


def formulas(markdown: str) -> tuple[str, list[str]]:
    """Return a page with a mark for each formula outside code, and the formulas as MathML."""
    from latex2mathml.converter import convert

    found: list[str] = []

    def marked(match: re.Match[str]) -> str:
        found.append(convert(match[1] or match[2], display="block" if match[1] else "inline"))
        return f"FORMULA{len(found) - 1}END"

    parts = CODE.split(markdown)
    return "".join(part if k % 2 else MATH.sub(marked, part) for k, part in enumerate(parts)), found


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Put the formulas where their marks are."""
    return re.sub(r"FORMULA(\d+)END", lambda match: page.meta["formulas"][int(match[1])], html)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Mark the formulas, and let each link lead to where its target is in the site."""
    markdown, page.meta["formulas"] = formulas(markdown)
    uri = page.file.src_uri
    path = uri.removeprefix(f"{FOLDER}/") if uri.startswith(f"{FOLDER}/") else f"docs/{uri}"
    if uri.endswith("/index.md") and (ROOT / path).parent.is_dir() and not (ROOT / path).exists():
        return markdown  # a list of files, beside it

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        return posixpath.relpath(place(target), posixpath.dirname(uri) or ".") + (match[2] or "")

    return LINK.sub(moved, with_programs(markdown, path))
