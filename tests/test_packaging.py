"""The wheel and the source distribution: built from the tree, installed elsewhere, they hold all that commands need."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import yaml

from rlhf_game import __version__

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "rlhf_game")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, made by the build backend from a copy of the tree."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    script = f"from setuptools import build_meta as b; b.build_sdist({str(out)!r}); b.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=tree, check=True, capture_output=True)
    return out


def installed(built: Path, folder: Path) -> Path:
    """The command of a new environment that has the wheel, and this environment's packages instead of a network."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    wheel = next(built.glob("*.whl"))
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(packages), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    (folder / "rlhf-game").write_text(
        f"#!{folder}/bin/python\nfrom rlhf_game.cli import main\nraise SystemExit(main())\n"
    )
    (folder / "rlhf-game").chmod(0o755)
    return folder / "rlhf-game"


def test_versions_agree_and_the_citation_has_a_date() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == __version__
    assert citation["date-released"]


@pytest.mark.slow
def test_the_source_distribution_holds_the_package(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    package = [path for path in (ROOT / "rlhf_game").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in package} <= inside


@pytest.mark.slow
@pytest.mark.weights
def test_a_wheel_elsewhere_settles_plays_reports_and_runs_the_demo(built: Path, tmp_path: Path) -> None:
    command = installed(built, tmp_path / "env")
    (tmp_path / "here").mkdir()
    free = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run([command, *arguments], cwd=tmp_path / "here", env=free, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--version") == f"rlhf-game {__version__}\n"
    where = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-c", "import rlhf_game; print(rlhf_game.__file__)"],
        cwd=tmp_path, env=free, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(tmp_path))
    run("init", "game", "-o", "game.yaml")
    run("settle", "game.yaml", "-o", "receipt.json")
    run("verify", "receipt.json", "game.yaml")
    run("play", "game.yaml", "-o", "play.html")
    run("report", "game.yaml")
    run("doctor")
    run("demo", "-o", "demo")
    assert (tmp_path / "here" / "demo" / "report.html").exists()
