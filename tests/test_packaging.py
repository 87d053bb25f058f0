"""The wheel and the source distribution: built from the tree, installed elsewhere, they hold all that commands need."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from importlib.metadata import Distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rlhf_game.files.verify import _release

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", ".gitignore", "rlhf_game")
TAGGED = "9.8.7"


def git(tree: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=tree, check=True, capture_output=True)


def build(tree: Path, what: str, out: Path) -> Path:
    """Have the build backend make a distribution or its metadata of a tree, and return where it is."""
    script = f"from setuptools import build_meta as b; print(b.{what}({str(out)!r}))"
    said = subprocess.run([sys.executable, "-c", script], cwd=tree, check=True, capture_output=True, text=True).stdout
    return out / said.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of a tagged copy of the tree, and the wheel that was made from the sdist alone."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    git(tree, "init")
    git(tree, "add", ".")
    git(tree, "commit", "-m", "all")
    git(tree, "tag", f"v{TAGGED}")
    sdist = build(tree, "build_sdist", out)
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    build(next(unpacked.iterdir()), "build_wheel", out)
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


def version_of(tree: Path) -> str:
    """Return the version in the metadata that the build backend makes of a tree."""
    with TemporaryDirectory() as out:
        found: str = Distribution.at(build(tree, "prepare_metadata_for_build_wheel", Path(out))).version
    return found


def test_the_version_is_that_of_the_last_tag(tmp_path: Path) -> None:
    """Without history or without tags it is the development version of the release under way."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    under_way = settings["tool"]["setuptools_scm"]["fallback_version"]
    (tmp_path / "rlhf_game").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "rlhf_game/__init__.py", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    assert version_of(tmp_path) == under_way

    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    git(tmp_path, "commit", "--allow-empty", "-m", "two")
    assert version_of(tmp_path) == under_way.removesuffix("0") + "2"
    git(tmp_path, "tag", "v3.1.4")
    assert version_of(tmp_path) == "3.1.4"
    git(tmp_path, "commit", "--allow-empty", "-m", "three")
    assert version_of(tmp_path) == "3.1.5.dev1"


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("0.1.0", (0, 1, 0)),
        ("0.2.0.dev12", (0, 2, 0)),
        ("1.2.dev3+g1a2b", (1, 2)),
        ("0+unknown", (0,)),
        ("0.1.0x", ()),
        ("1.0.dev", ()),
        ("", ()),
    ],
)
def test_a_receipt_of_a_version_under_way_is_one_of_its_release(version: str, numbers: tuple[int, ...]) -> None:
    assert _release(version) == numbers


def test_the_image_gets_what_its_dockerfile_copies_and_nothing_else() -> None:
    copies = [line.split()[1:-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    copied = {name for names in copies for name in names}
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignore[1] == "*"
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


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

    assert run("--version") == f"rlhf-game {TAGGED}\n"
    assert json.loads(run("doctor", "--json"))["rlhf-game"] == TAGGED
    where = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-c", "import rlhf_game; print(rlhf_game.__file__)"],
        cwd=tmp_path, env=free, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(tmp_path))
    run("init", "game", "-o", "game.yaml")
    run("settle", "game.yaml", "-o", "receipt.json")
    run("verify", "receipt.json", "game.yaml")
    assert json.loads((tmp_path / "here" / "receipt.json").read_text())["version"] == TAGGED
    run("play", "game.yaml", "-o", "play.html")
    run("report", "game.yaml")
    run("demo", "-o", "demo")
    assert (tmp_path / "here" / "demo" / "report.html").exists()


@pytest.mark.slow  # pip asks the package index, and is skipped where there is none
def test_all_extras_install_together_with_the_pinned_versions() -> None:
    plan = ["install", "--dry-run", "--quiet", "--ignore-installed", "-c", "constraints.txt", ".[all]"]
    done = subprocess.run([sys.executable, "-m", "pip", *plan], cwd=ROOT, capture_output=True, text=True)
    if done.returncode and "ResolutionImpossible" not in done.stderr:
        pytest.skip(f"pip reaches no package index: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr[-2000:]
