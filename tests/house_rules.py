"""The rules of this code base as functions from a source file to its violations; test_house_rules.py applies them."""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import final

ROOT = Path(__file__).resolve().parent.parent

LONGEST_FUNCTION = 60
LONGEST_FILE = 400
LONGEST_INIT = 80

TRAINING = frozenset(
    {
        "accelerate", "datasets", "gguf", "huggingface_hub", "peft", "safetensors", "tokenizers", "torch",
        "transformers", "trl",
    }
)  # fmt: skip


@final
@dataclass(frozen=True)
class Layer:
    """What the modules of one part of the package may import, always or only inside functions."""

    below: frozenset[str]
    always: frozenset[str]
    inside: frozenset[str] = frozenset()
    below_inside: frozenset[str] = frozenset()


def _layer(below: str, always: str, inside: str = "", below_inside: str = "") -> Layer:
    return Layer(*(frozenset(names.split()) for names in (below, always, inside, below_inside)))


LAYERS = {
    "errors": _layer("", ""),
    "cores": _layer("", ""),
    "version": _layer("", ""),
    "registry": _layer("errors", ""),
    "callables": _layer("errors", ""),
    "optimization": _layer("errors", ""),
    "tabular": _layer("errors", "", "pandas"),
    "mechanism": _layer("errors cores tabular", "numpy", "scipy cvxpy"),
    "agents": _layer("errors mechanism", "numpy", "scipy"),
    "files": _layer(
        "errors registry mechanism optimization", "numpy pydantic pydantic_core yaml", "cryptography pyarrow"
    ),
    "chat": _layer("errors files", "pydantic pydantic_core", "httpx2", "training_backends"),
    "rewards": _layer(
        "errors registry callables mechanism files chat",
        "numpy pydantic pydantic_core",
        "scipy vaderSentiment textstat better_profanity rouge_score",
        "training_backends",
    ),
    "outcomes": _layer(
        "errors registry mechanism optimization engines files chat rewards",
        "numpy pydantic pydantic_core",
        "pyarrow",
        "training_backends",
    ),
    "discovery": _layer("errors files chat rewards outcomes", "numpy pydantic", "matplotlib", "training_backends"),
    "training": _layer(
        "errors registry mechanism optimization files chat rewards outcomes discovery",
        "numpy pydantic pydantic_core",
        "sacrebleu",
        "training_backends",
    ),
    "engines": _layer("errors cores", "", "joblib ray"),
    "simulations": _layer(
        "errors registry tabular mechanism agents engines files outcomes", "numpy pydantic", "scipy pyarrow"
    ),
    "training_backends": Layer(
        frozenset({"errors", "callables", "mechanism", "optimization", "files"}),
        TRAINING | {"numpy"},
        frozenset({"jinja2"}),
    ),
    "trl": Layer(
        frozenset({"errors", "engines", "mechanism", "files", "rewards", "outcomes", "training_backends"}),
        TRAINING | {"numpy"},
        frozenset(),
    ),
    "report": _layer(
        "errors registry mechanism agents files", "numpy pydantic", "jinja2 matplotlib pyarrow", "training"
    ),
    "cli": _layer(
        "errors cores registry mechanism agents files",
        "click typer rich numpy",
        "pydantic",
        "discovery engines report outcomes training simulations training_backends",
    ),
    "__main__": _layer("cli", ""),
}
"""The whole dependency graph. A new part of the package needs a line here."""


@final
@dataclass(frozen=True)
class Import:
    """One import: the module, and whether it happens only when a function is called (or only for type checkers)."""

    module: str
    line: int
    is_inside: bool


@final
@dataclass(frozen=True)
class Source:
    """One file of Python: its path below the root, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def part(self) -> str:
        """The part of the package that it belongs to: rlhf_game/mechanism/arrays.py is of mechanism."""
        return self.path.split("/")[1].removesuffix(".py")

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(_imports(self.tree, is_inside=False))


def sources(*patterns: str) -> list[Source]:
    """Every file that matches a pattern, from the root."""
    paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def _imports(node: ast.AST, is_inside: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from (Import(alias.name, child.lineno, is_inside) for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                if module == "rlhf_game":
                    yield from (Import(f"{module}.{alias.name}", child.lineno, is_inside) for alias in names)
                else:
                    yield Import(module, child.lineno, is_inside)
            case ast.Call(func=ast.Name("import_module") | ast.Attribute(attr="import_module")) if child.args:
                if isinstance(child.args[0], ast.Constant):
                    yield Import(str(child.args[0].value), child.lineno, is_inside)
        lazily = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and _name(child.test) == "TYPE_CHECKING"
        )
        yield from _imports(child, is_inside or lazily)


def _name(node: ast.AST) -> str:
    """The dotted name that an expression spells, or an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return ""


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    return ((_name(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def layers(source: Source) -> list[str]:
    """A part of the package imports only the parts below it, and the facade (rlhf_game itself) from nowhere inside."""
    if source.path == "rlhf_game/__init__.py":
        return []
    if source.part not in LAYERS:
        return [f"{source.path}: {source.part!r} has no place in LAYERS yet"]
    layer = LAYERS[source.part]
    found = []
    for item in source.imports:
        package, _, rest = item.module.partition(".")
        if package != "rlhf_game" or rest == "__version__":
            continue
        allowed = layer.below | {source.part} | (layer.below_inside if item.is_inside else frozenset())
        if rest.partition(".")[0] not in allowed:
            found.append(f"{source.path}:{item.line}: {source.part} imports {item.module}")
    return found


def repeated_names(package: Sequence[Source]) -> list[str]:
    """No two files share a name, and no two public classes: one meaning each.

    A file of the command line is called as its command, whatever else is called so; every room may have its base.
    """
    files: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for source in package:
        name = source.path.rpartition("/")[2]
        if source.part != "cli" and name not in ("__init__.py", "base.py"):
            files.setdefault(name, []).append(source.path)
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.setdefault(node.name, []).append(source.path)
    found = (files | classes).items()
    return [f"{name} is in {' and '.join(places)}" for name, places in found if len(places) > 1]


CUTE = frozenset(
    {
        "heard", "hear", "made", "said", "scene", "shop", "spoke", "told", "tell", "whisper", "workplace",
        "workshop",
    }
)  # fmt: skip
"""Words that say nothing of what a class or a function is; ``tell`` is what files of Python's own have."""


def plain_names(source: Source) -> list[str]:
    """A class is called what it is, and a function what it does or gives back."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = {word.lower() for word in re.findall("[A-Z]?[a-z0-9]+|[A-Z]+", node.name)}
            if words & CUTE and not (node.name == "tell" and len(node.args.args) == 1):
                found.append(f"{source.path}:{node.lineno}: {node.name}")
    return found


def libraries(source: Source) -> list[str]:
    """A part of the package imports only its own libraries, the slow ones inside functions only."""
    layer = LAYERS.get(source.part, _layer("", ""))
    found = []
    for item in source.imports:
        package = item.module.partition(".")[0]
        if package == "rlhf_game" or package in sys.stdlib_module_names:
            continue
        if package not in layer.always | (layer.inside if item.is_inside else frozenset()):
            where = "" if item.is_inside else " at import"
            found.append(f"{source.path}:{item.line}: {source.part} imports {package}{where}")
    return found


def docstrings_of_names(of: ast.Module | ast.ClassDef) -> Iterator[ast.Expr]:
    """Yield the docstrings of names: texts that stand below an assignment."""
    for name, text in pairwise(of.body):
        value = text.value if isinstance(text, ast.Expr) else None
        is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
        if isinstance(text, ast.Expr) and is_text and isinstance(name, ast.Assign | ast.AnnAssign):
            yield text


def lengths(source: Source) -> list[str]:
    """Functions, files and __init__ files are short; docstrings do not count."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found, docstring_lines = [], 0
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            docstring_lines += sum((text.end_lineno or 0) - text.lineno + 1 for text in docstrings_of_names(node))
        if not isinstance(node, documented):
            continue
        body = node.body
        if body and ast.get_docstring(node, clean=False) is not None:
            docstring_lines += (body[0].end_lineno or 0) - body[0].lineno + 1
            body = body[1:]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body:
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1
            if length > LONGEST_FUNCTION:
                found.append(f"{source.path}:{node.lineno}: {node.name} has {length} lines > {LONGEST_FUNCTION}")
    longest = LONGEST_INIT if source.path.endswith("__init__.py") else LONGEST_FILE
    length = len(source.text.splitlines()) - docstring_lines
    if length > longest:
        found.append(f"{source.path}: {length} lines > {longest}")
    return found


def prints(source: Source) -> list[str]:
    """Only the command line prints."""
    if source.part == "cli":
        return []
    names = {"print", "sys.stdout.write", "sys.stderr.write"}
    return [f"{source.path}:{call.lineno}: {name}" for name, call in _calls(source.tree) if name in names]


def pickles(source: Source) -> list[str]:
    """Nothing that is read can run code: no pickle, in no disguise."""
    modules = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal"}
    found = [f"{source.path}:{item.line}: {item.module}" for item in source.imports if item.module in modules]
    for name, call in _calls(source.tree):
        allows = [k for k in call.keywords if k.arg == "allow_pickle" and getattr(k.value, "value", True) is not False]
        if name in {"torch.load", "joblib.load", "yaml.load", "yaml.unsafe_load", "eval", "exec"} or allows:
            found.append(f"{source.path}:{call.lineno}: {name}")
    return found


def star_imports(source: Source) -> list[str]:
    """Every name says where it comes from."""
    nodes = (node for node in ast.walk(source.tree) if isinstance(node, ast.ImportFrom))
    return [f"{source.path}:{node.lineno}: from {node.module} import *" for node in nodes if node.names[0].name == "*"]


def global_randomness(source: Source) -> list[str]:
    """Randomness is an argument; torch's global state may be seeded only inside torch.random.fork_rng."""
    values = {"Generator", "default_rng", "SeedSequence", "BitGenerator", "PCG64", "Philox"}
    seeds = {"torch.manual_seed", "torch.random.manual_seed", "transformers.set_seed", "set_seed"}
    forked = {
        id(call)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.With)
        and any(name.endswith("fork_rng") for item in node.items for name, _ in _calls(item))
        for _, call in _calls(node)
    }
    found = []
    for node in ast.walk(source.tree):
        match _name(node).split("."):
            case ["np" | "numpy", "random", name] if name not in values:
                found.append(f"{source.path}:{getattr(node, 'lineno', 0)}: np.random.{name}")
            case ["random", name] if name != "Random" and any(item.module == "random" for item in source.imports):
                found.append(f"{source.path}:{getattr(node, 'lineno', 0)}: random.{name}")
    calls = [(name, call) for name, call in _calls(source.tree) if name in seeds and id(call) not in forked]
    return found + [f"{source.path}:{call.lineno}: {name}" for name, call in calls]


def notes_to_self(source: Source) -> list[str]:
    """What is left to do belongs into an issue."""
    marks = ("TODO", "FIXME", "XXX", "HACK")
    tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
    texts = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            texts.append((getattr(node, "lineno", 1), ast.get_docstring(node) or ""))
    return [f"{source.path}:{line}: {mark}" for line, text in texts for mark in marks if mark in text]


def state(source: Source) -> list[str]:
    """No global statement, no change of sys.path, no dataclass that can change."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            found.append(f"{source.path}:{node.lineno}: global {', '.join(node.names)}")
        elif isinstance(node, ast.Attribute) and _name(node) == "sys.path":
            found.append(f"{source.path}:{node.lineno}: sys.path")
        elif isinstance(node, ast.ClassDef) and _is_dataclass(node) and not _is_dataclass(node, frozen=True):
            found.append(f"{source.path}:{node.lineno}: {node.name} is a dataclass that is not frozen")
    return found


def _is_dataclass(node: ast.ClassDef, frozen: bool = False) -> bool:
    for decorator in node.decorator_list:
        called = isinstance(decorator, ast.Call)
        if _name(decorator.func if isinstance(decorator, ast.Call) else decorator).endswith("dataclass"):
            keywords = decorator.keywords if called else []
            return not frozen or any(k.arg == "frozen" and getattr(k.value, "value", False) is True for k in keywords)
    return False


def open_classes(source: Source) -> list[str]:
    """A class is abstract (it says so, or has an abstract method) or final; errors are a tree of their own."""
    if source.path == "rlhf_game/errors.py":
        return []
    found = []
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = {_name(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases}
        decorators = {
            _name(d) for item in ast.walk(node) if hasattr(item, "decorator_list") for d in item.decorator_list
        }
        own = {_name(decorator) for decorator in node.decorator_list}
        if not (bases & {"ABC", "Protocol"} or "abstractmethod" in decorators or "final" in own):
            found.append(f"{source.path}:{node.lineno}: {node.name} is neither abstract nor final")
    return found


def passed_through_keywords(source: Source) -> list[str]:
    """No function hands on keywords that it does not know."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg is not None:
            name = node.args.kwarg.arg
            handed_on = [
                k for _, call in _calls(node) for k in call.keywords if k.arg is None and _name(k.value) == name
            ]
            if handed_on:
                found.append(f"{source.path}:{node.lineno}: {node.name} passes **{name} through")
    return found
