"""Every file keeps the house rules, and every rule catches what it is for."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from pkgutil import iter_modules

import pytest

import rlhf_game
from rlhf_game.training_backends.lazy import lazily
from tests import house_rules, import_circles
from tests.house_rules import ROOT, Source, sources

Rule = Callable[[Source], list[str]]

PACKAGE = sources("rlhf_game/**/*.py")
EVERYTHING = PACKAGE + sources(
    "tests/**/*.py", "benchmarks/**/*.py", "docs/**/*.py", "measurements/**/*.py", "notebooks/**/*.py"
)

OF_THE_PACKAGE: dict[Rule, list[tuple[str, str]]] = {
    house_rules.layers: [
        ("rlhf_game/mechanism/new.py", "from rlhf_game.agents.misreports import Polarize"),
        ("rlhf_game/mechanism/new.py", "def f():\n    import rlhf_game.files"),
        ("rlhf_game/agents/new.py", "from rlhf_game import Mechanism"),
        ("rlhf_game/outcomes/new.py", "from rlhf_game.training_backends import models"),
        (
            "rlhf_game/simulations/new.py",
            "def f():\n    from importlib import import_module\n    import_module('rlhf_game.cli')",
        ),
        ("rlhf_game/unheard_of/new.py", ""),
    ],
    house_rules.plain_names: [
        ("rlhf_game/mechanism/new.py", "class Workshop(ABC): ..."),
        ("rlhf_game/mechanism/new.py", "class A(ABC):\n    def is_heard(self): ..."),
        ("rlhf_game/mechanism/new.py", "def f():\n    def told(): ..."),
        ("rlhf_game/mechanism/new.py", "def tell(what, whom): ..."),
    ],
    house_rules.libraries: [
        ("rlhf_game/mechanism/new.py", "import pandas"),
        ("rlhf_game/mechanism/new.py", "from scipy.special import logsumexp"),
        ("rlhf_game/mechanism/new.py", "def f():\n    import torch"),
        ("rlhf_game/files/new.py", "import torch.nn as nn"),
        ("rlhf_game/cli.py", "def f():\n    from transformers import AutoTokenizer"),
    ],
    house_rules.prints: [
        ("rlhf_game/mechanism/new.py", "print(1)"),
        ("rlhf_game/outcomes/new.py", "import sys\nsys.stderr.write('x')"),
    ],
    house_rules.pickles: [
        ("rlhf_game/files/new.py", "import pickle"),
        ("rlhf_game/files/new.py", "def f(path):\n    from cloudpickle import load"),
        ("rlhf_game/files/new.py", "np.load(path, allow_pickle=True)"),
        ("rlhf_game/files/new.py", "np.load(path, allow_pickle=trusted)"),
        ("rlhf_game/training_backends/new.py", "torch.load(path, weights_only=False)"),
        ("rlhf_game/training_backends/new.py", "joblib.load(path)"),
        ("rlhf_game/files/new.py", "yaml.load(text, Loader)"),
    ],
    house_rules.open_classes: [
        ("rlhf_game/mechanism/new.py", "class A:\n    x = 1"),
        ("rlhf_game/mechanism/new.py", "@dataclass(frozen=True)\nclass A(PaymentRule):\n    x: int"),
    ],
    house_rules.passed_through_keywords: [
        ("rlhf_game/mechanism/new.py", "def f(**options):\n    return g(1, **options)"),
    ],
    house_rules.state: [
        ("rlhf_game/mechanism/new.py", "def f():\n    global x\n    x = 1"),
        ("rlhf_game/mechanism/new.py", "sys.path.insert(0, '.')"),
        ("rlhf_game/mechanism/new.py", "@dataclass\nclass A:\n    x: int"),
        ("rlhf_game/mechanism/new.py", "@dataclasses.dataclass(eq=False)\nclass A:\n    x: int"),
    ],
}

OF_EVERYTHING: dict[Rule, list[tuple[str, str]]] = {
    house_rules.lengths: [
        ("rlhf_game/mechanism/new.py", "def f():\n" + "    x = 1\n" * 61),
        ("rlhf_game/mechanism/new.py", "x = 1\n" * 401),
        ("rlhf_game/mechanism/__init__.py", "x = 1\n" * 81),
    ],
    house_rules.star_imports: [
        ("rlhf_game/mechanism/new.py", "from numpy import *"),
    ],
    house_rules.global_randomness: [
        ("rlhf_game/mechanism/new.py", "np.random.seed(0)"),
        ("tests/test_new.py", "x = numpy.random.rand(3)"),
        ("rlhf_game/agents/new.py", "import random\nrandom.shuffle(x)"),
        ("rlhf_game/training_backends/new.py", "torch.manual_seed(0)"),
    ],
    house_rules.notes_to_self: [
        ("rlhf_game/mechanism/new.py", "x = 1  # TODO: think"),
        ("rlhf_game/mechanism/new.py", 'def f():\n    """FIXME: wrong."""'),
    ],
}

INNOCENT: list[tuple[Rule, str, str]] = [
    (house_rules.layers, "rlhf_game/outcomes/new.py", "def f():\n    from rlhf_game.training_backends import models"),
    (house_rules.layers, "rlhf_game/mechanism/new.py", "from rlhf_game.errors import InputError"),
    (house_rules.plain_names, "rlhf_game/new.py", "class A(ABC):\n    def tell(self): ...\n    def remade(self): ..."),
    (
        house_rules.libraries,
        "rlhf_game/mechanism/new.py",
        "import math\nimport numpy as np\ndef f():\n    import scipy.special",
    ),
    (
        house_rules.lengths,
        "rlhf_game/mechanism/new.py",
        'def f():\n    """A.\n' + "    b\n" * 500 + '    """\n    return 1',
    ),
    (house_rules.pickles, "rlhf_game/files/new.py", "np.load(path, allow_pickle=False)\nyaml.safe_load(text)"),
    (house_rules.global_randomness, "rlhf_game/new.py", "rng = np.random.default_rng(seed)"),
    (house_rules.global_randomness, "rlhf_game/new.py", "with torch.random.fork_rng():\n    torch.manual_seed(seed)"),
    (house_rules.open_classes, "rlhf_game/mechanism/new.py", "@final\nclass A:\n    x = 1\nclass B(ABC):\n    x = 1"),
    (house_rules.passed_through_keywords, "rlhf_game/new.py", "def f(prompts, **columns):\n    return g(columns)"),
]

HEAVY = (
    "torch", "transformers", "trl", "peft", "datasets", "cvxpy", "scipy", "pandas", "pyarrow", "pydantic", "yaml",
    "matplotlib", "typer", "rich",
)  # fmt: skip


@pytest.mark.parametrize("rule", OF_THE_PACKAGE, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert [found for source in PACKAGE for found in rule(source)] == []


@pytest.mark.parametrize("rule", OF_EVERYTHING, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    assert [found for source in EVERYTHING for found in rule(source)] == []


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [(rule, *bad) for rule, bads in {**OF_THE_PACKAGE, **OF_EVERYTHING}.items() for bad in bads],
)
def test_each_rule_catches_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    assert len(rule(Source(path, text))) == 1


@pytest.mark.parametrize(("rule", "path", "text"), INNOCENT)
def test_no_rule_catches_the_innocent(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text)) == []


def test_no_modules_and_no_parts_import_each_other_in_a_circle() -> None:
    assert import_circles.circles(PACKAGE) == []


def test_a_circle_is_found_however_it_is_closed() -> None:
    def circles(*texts: str) -> list[str]:
        return import_circles.circles(
            [
                Source(f"rlhf_game/{name}.py", text)
                for name, text in zip(("one/a", "one/b", "two/c"), texts, strict=True)
            ]
        )

    assert circles("import rlhf_game.one.b", "from rlhf_game.two import c", "import rlhf_game") == []
    both = circles("from rlhf_game.one.b import x", "def f():\n    from rlhf_game.one import a", "")
    assert both == ["rlhf_game.one.a and rlhf_game.one.b import each other"]
    parts = circles("import rlhf_game.two.c", "", "def f():\n    from rlhf_game.one.b import x")
    assert parts == ["rlhf_game.one and rlhf_game.two import each other"]
    assert len(circles("import rlhf_game.one.b", "import rlhf_game.two.c", "import rlhf_game.one.a")) == 2


def test_a_name_means_one_thing() -> None:
    assert house_rules.repeated_names(PACKAGE) == []
    twice = [Source(f"rlhf_game/{part}/{file}.py", "class A: ...") for part, file in (("files", "b"), ("cli", "b"))]
    assert house_rules.repeated_names(twice) == ["A is in rlhf_game/files/b.py and rlhf_game/cli/b.py"]
    files = [Source(f"rlhf_game/{part}/b.py", "class _A: ...") for part in ("files", "chat", "cli")]
    assert house_rules.repeated_names(files) == ["b.py is in rlhf_game/files/b.py and rlhf_game/chat/b.py"]


def _loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running ``code``."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_but_itself() -> None:
    assert _loaded_by("import rlhf_game").isdisjoint({*HEAVY, "numpy"})
    assert "torch" in _loaded_by("import torch")  # the measurement sees what it looks for


def test_settling_a_small_game_in_python_loads_no_heavy_library() -> None:
    code = """
from rlhf_game import AffinePayments, KL, Mechanism, Report, SocialWelfare, Table
space = Table(reference=[0.5, 0.3, 0.2], regularizer=KL(strength=0.1))
Mechanism(SocialWelfare(), AffinePayments()).settle([Report([1, 0, 0]), Report([0, 0.2, 0.8], size=3)], space)
"""
    loaded = _loaded_by(code)
    assert loaded.isdisjoint(HEAVY)
    assert "numpy" in loaded


def test_settling_a_small_game_file_loads_no_heavy_library(tmp_path: Path) -> None:
    game = tmp_path / "game.json"
    game.write_text('{"reference": [0.5, 0.5], "strength": 1, "groups": [{"name": "a", "size": 1, "reward": [1, 0]}]}')
    code = f"""
import sys
from rlhf_game.cli import main
sys.argv = ["rlhf-game", "settle", {str(game)!r}, "--json"]
try:
    main()
except SystemExit as done:
    assert not done.code
"""
    needed = {"typer", "rich", "pydantic", "yaml"}
    assert _loaded_by(code).isdisjoint(set(HEAVY) - needed)


LAZY = sorted(
    source.path.removesuffix("/__init__.py").replace("/", ".")
    for source in PACKAGE
    if source.path.endswith("__init__.py") and "_NAMES = {" in source.text
)


@pytest.mark.parametrize("package", LAZY)
def test_the_public_names_are_listed_once_more_for_editors(package: str) -> None:
    module = import_module(package)
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in ast.walk(tree) if isinstance(node, ast.If))
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    for_editors = {(alias.name, node.module) for node in imports for alias in node.names}
    lazy = [(name, place) for place, names in module._NAMES.items() for name in names]
    assert for_editors == set(lazy)
    assert sorted(name for name, _ in lazy if name != "__version__") == sorted(module.__all__)


PACKAGES = sorted(source.path.removesuffix("/__init__.py") for source in PACKAGE if source.path.endswith("__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported_and_hides_no_module(package: str) -> None:
    module = import_module(package.replace("/", "."))
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert all(isinstance(name, str) and getattr(module, name) is not None for name in names)
    assert set(names).isdisjoint(found.name for found in iter_modules(module.__path__))


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    for package in LAZY:
        with pytest.raises(AttributeError, match="Tabel"):
            _ = import_module(package).Tabel


def test_a_missing_extra_is_named_and_another_missing_module_is_not_taken_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backends = import_module("rlhf_game.training_backends")
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "rlhf_game.training_backends.lm.models", raising=False)
        patch.setitem(sys.modules, "torch", None)
        with pytest.raises(rlhf_game.MissingExtra, match=r"torch is not installed.*rlhf-game\[train\]"):
            _ = backends.LanguageModel
    with pytest.raises(ModuleNotFoundError, match="lost") as caught:
        lazily("somewhere", {"rlhf_game.training_backends.lost": ("Lost",)})("Lost")
    assert not isinstance(caught.value, rlhf_game.MissingExtra)


def _project() -> dict[str, list[str]]:
    """The requirements of the project by extra, the core's under an empty name; names as pip compares them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [_canonical(requirement) for requirement in listed] for extra, listed in extras.items()}


def _canonical(requirement: str) -> str:
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_library_that_the_package_imports_is_declared() -> None:
    declared = {name for names in _project().values() for name in names}
    distributions = packages_distributions() | {"pydantic_core": ["pydantic"]}  # pydantic documents its use
    imported = {item.module.partition(".")[0] for source in PACKAGE for item in source.imports}
    for name in imported - set(sys.stdlib_module_names) - {"rlhf_game"}:
        assert {_canonical(found) for found in distributions.get(name, [name])} & declared, name


def test_every_dependency_of_the_environment_is_pinned() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = ["", *re.search(r"^EXTRAS := (.*)$", makefile, re.MULTILINE)[1].split(",")]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_canonical(line) for line in lines if re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)}
    assert len(pinned) == len(lines)
    wanted = {name for extra in extras for name in _project()[extra]}
    assert wanted <= pinned
    assert "torch==2.13.0" in lines
