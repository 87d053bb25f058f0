"""Names, places and entry points become the classes they stand for; sources are known without being run."""

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

import rlhf_game as rg
from rlhf_game import registry
from rlhf_game.mechanism.payments import AffinePayments
from rlhf_game.registry import find, is_code, load, names, source_of

HALF = """
from dataclasses import dataclass
import rlhf_game as rg
from helper import two

@dataclass(frozen=True)
class Half(rg.PaymentRule[rg.AffineRule]):
    def charge(self, optimum):
        return optimum.externalities() / two
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(HALF)
    (tmp_path / "helper.py").write_text("two = 2\n")
    (tmp_path / "other.py").write_text("import json\n")
    return tmp_path


def test_every_name_that_is_listed_is_a_class_of_its_role() -> None:
    for role in ("regularizer", "payment", "training", "space"):
        for name in names(role):
            assert isinstance(find(role, name), type)
    assert find("payment", "affine") is AffinePayments


def test_a_file_is_found_beside_whoever_names_it_and_can_import_its_neighbours(folder: Path) -> None:
    half = find("payment", "mine.py:Half", folder)
    assert issubclass(half, rg.PaymentRule)
    assert find("payment", "mine.py:Half", folder) is half  # the same class, not a twin
    assert "helper" not in sys.modules
    assert find("payment", "mine:Half", folder).__name__ == "Half"


def test_two_folders_have_modules_of_one_name(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    second = tmp_path_factory.mktemp("second")
    (second / "mine.py").write_text(HALF)
    (second / "helper.py").write_text("two = 4\n")
    reports = [rg.Report([1, 0]), rg.Report([0, 1])]
    table = rg.Table([0.5, 0.5], rg.KL(1.0))
    paid = [
        rg.Mechanism(rg.SocialWelfare(), find("payment", "mine.py:Half", place)()).settle(reports, table).payments
        for place in (folder, second)
    ]
    assert paid[0] == pytest.approx(2 * paid[1])


def test_a_source_is_its_file_and_what_it_imports_from_its_folder(folder: Path) -> None:
    before = source_of("mine.py:Half", folder).document()
    assert set(before) == {"mine.py", "helper.py"}
    (folder / "other.py").write_text("import os\n")
    assert source_of("mine.py:Half", folder).document() == before
    (folder / "helper.py").write_text("two = 3\n")
    after = source_of("mine.py:Half", folder).document()
    assert after["mine.py"] == before["mine.py"]
    assert after["helper.py"] != before["helper.py"]
    assert load("mine.py:two", folder) == 3  # a changed neighbour is read anew


def test_imports_of_packages_beside_the_part_are_followed(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/__init__.py").write_text("from . import numbers\n")
    (tmp_path / "tools/numbers.py").write_text("def f():\n    from ..deep import x\n")
    (tmp_path / "deep.py").write_text("x = 1\n")
    (tmp_path / "mine.py").write_text("import tools.numbers\nimport numpy\n")
    files = {"mine.py", "tools/__init__.py", "tools/numbers.py", "deep.py"}
    assert set(source_of("mine.py:x", tmp_path).document()) == files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("afine", "must be affine, none, revenue, .*path/to/file.py:Name"),
        ("lost.py:Half", "must name a file that exists"),
        ("mine.py:Whole", "none called 'Whole' in mine.py"),
        ("mine.py:two", "must be a subclass of PaymentRule"),
        ("lost.module:Half", "must name a module"),
        (":Half", "must be package.module:Name"),
    ],
)
def test_what_is_not_there_is_one_line(folder: Path, name: str, message: str) -> None:
    with pytest.raises(rg.InputError, match=message):
        find("payment", name, folder)


@pytest.mark.parametrize("code", ["1 / 0", "import sys\nsys.exit(0)", "import nowhere_at_all", "def f(:"])
def test_code_that_fails_is_a_failed_run(tmp_path: Path, code: str) -> None:
    (tmp_path / "bad.py").write_text(code + "\n")
    with pytest.raises(rg.RunError, match=r"bad\.py cannot be run"):
        find("payment", "bad.py:Half", tmp_path)


def test_registered_names_are_known_and_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})

    @rg.register("payment", "flat")
    class Flat(rg.PaymentRule[rg.AffineRule]):
        def charge(self, optimum: object) -> object:
            return [1.0]

    assert find("payment", "flat") is Flat
    assert not is_code("payment", "flat")
    for name in ("flat", "affine"):
        with pytest.raises(rg.InputError, match="name must be a new one"):
            rg.register("payment", name)
    with pytest.raises(rg.InputError, match="role must be one of"):
        rg.register("paiment", "other")
    with pytest.raises(rg.InputError, match="must be a subclass of Regularizer"):
        rg.register("regularizer", "other")(Flat)


def test_parts_of_installed_packages_are_found_by_their_entry_points(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "brought_along.py").write_text(HALF.replace("helper", "brought_too"))
    (tmp_path / "brought_too.py").write_text("two = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint(name, "brought_along:Half", registry.GROUP) for name in ("half", "payment.other_half")]
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(points))
    registry._entry_points.cache_clear()
    try:
        assert find("payment", "half") is find("payment", "other_half")
        assert "half" in names("payment")
        assert not is_code("payment", "half")
        with pytest.raises(rg.InputError, match="must be a subclass of TrainingRule"):
            find("training", "half")
    finally:
        registry._entry_points.cache_clear()
