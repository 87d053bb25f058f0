"""Names, places and entry points become the classes they stand for; sources are known without being run."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlhf_game as rg
from rlhf_game import registry
from rlhf_game.files.parts import sources
from rlhf_game.mechanism.payments import AffinePayments
from rlhf_game.registry import find, is_code, load, names, source_of, source_of_part
from tests.cli.runner import run

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


def test_a_package_that_fails_on_the_way_to_a_part_is_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing").mkdir()
    (tmp_path / "failing/__init__.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(rg.RunError, match=r"failing\.mine cannot be imported: ZeroDivisionError"):
        source_of("failing.mine:Half")


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


def installed(folder: Path, version: str, two: str = "2") -> None:
    """Write what an installed package is: its modules, and beside them its name, version and entry points."""
    (folder / "brought").mkdir(exist_ok=True)
    (folder / "brought/__init__.py").write_text("")
    (folder / "brought/along.py").write_text(HALF.replace("from helper", "from brought.helper"))
    (folder / "brought/helper.py").write_text(f"two = {two}\n")
    for old in folder.glob("*.dist-info"):
        shutil.rmtree(old)
    known = folder / f"brought_parts-{version}.dist-info"
    known.mkdir()
    (known / "METADATA").write_text(f"Metadata-Version: 2.1\nName: brought-parts\nVersion: {version}\n")
    points = "half = brought.along:Half\npayment.other_half = brought.along:Half\n"
    (known / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{points}")
    registry._entry_points.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder where a package is installed for a test."""
    monkeypatch.syspath_prepend(tmp_path)
    installed(tmp_path, "1.0")
    yield tmp_path
    registry._entry_points.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "brought"]:
        del sys.modules[name]


def test_parts_of_installed_packages_are_found_by_their_entry_points(site: Path) -> None:
    assert find("payment", "half") is find("payment", "other_half")
    assert "half" in names("payment")
    assert not is_code("payment", "half")
    with pytest.raises(rg.InputError, match="must be a subclass of TrainingRule"):
        find("training", "half")
    files = {"brought/__init__.py", "brought/along.py", "brought/helper.py", "brought-parts"}
    assert set(source_of_part("payment", "half").document(site)) == files


@pytest.mark.parametrize(("version", "two"), [("1.1", "2"), ("1.0", "3")])
def test_another_version_of_an_installed_part_neither_verifies_nor_resumes(site: Path, version: str, two: str) -> None:
    groups = [{"name": "a", "reward": [1, 0]}, {"name": "b", "reward": [0, 1]}]
    game, receipt, study = site / "game.json", site / "receipt.json", site / "study.json"
    game.write_text(json.dumps({"reference": [0.5, 0.5], "strength": 1, "payment": "half", "groups": groups}))
    played = {"scenario": {"kind": "random", "groups": 2, "outcomes": 2}, "strategies": [{"kind": "truthful"}]}
    study.write_text(json.dumps({**played, "games": 2, "strength": 1, "payments": ["half"]}))
    simulated = ("simulate", study, "-o", site / "out", "--engine", "serial")
    assert [run("settle", game, "-o", receipt).code, run("verify", receipt, game).code, run(*simulated).code] == [0] * 3
    assert run(*simulated).code == 0
    installed(site, version, two)
    assert "game_sha256" in run("verify", receipt, game).out
    assert run(*simulated).code == 2


@pytest.mark.parametrize("module", ["made_up", "__main__"])  # __main__ has no file in a notebook or a console
def test_a_registered_part_is_known_by_what_it_does(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    known: dict[str, Any] = {"__name__": module, "rg": rg}
    for returned in ("[1.0]", "[2.0]"):
        exec(
            f"class Flat(rg.PaymentRule[rg.AffineRule]):\n    def charge(self, optimum):\n        return {returned}",
            known,
        )
        registry._registered["payment", "flat"] = known["Flat"]
        known[returned] = sources({"payment": "flat"}, Path(), trusted=False)
    assert known["[1.0]"]["payment"].keys() == known["[2.0]"]["payment"].keys() == {"flat"}
    assert known["[1.0]"] != known["[2.0]"]
