"""One ordered map, whichever processes do it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.engines import Engine, Local, Ray, Serial, engine
from rlhf_game.errors import InputError, MissingExtra, RunError
from rlhf_game.simulations.simulation_pipeline import simulate
from tests.simulations.studies import GAMES, MARKET, study


def square(number: int) -> tuple[int, int, str]:
    if number == 7:
        raise InputError("number must not be 7")
    return number * number, os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


def check(chosen: Engine, workers: int) -> None:
    results = list(chosen.map(square, (number for number in range(6))))
    assert [result[0] for result in results] == [0, 1, 4, 9, 16, 25]
    elsewhere = {result[1] for result in results} - {os.getpid()}
    assert len(elsewhere) <= workers
    assert bool(elsewhere) == (workers > 0)
    if workers:
        assert {result[2] for result in results} == {"1"}
    with pytest.raises(InputError, match="number must not be 7"):
        list(chosen.map(square, range(5, 9)))


def test_serial_maps_in_order_here_and_no_further_than_asked() -> None:
    check(Serial(), 0)
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    assert next(Serial().map(square, tasks()))[0] == 0
    assert taken == [0]


def test_one_local_worker_is_this_process() -> None:
    check(Local(1), 0)


def test_local_workers_map_in_order() -> None:
    pytest.importorskip("joblib", reason="needs joblib, of the extra 'parallel'")
    check(Local(2), 2)


def linger(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(120)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("engine_of", ["Local(2)", "Devices(('0', '1'))"])
def test_workers_end_with_whoever_began_them(tmp_path: Path, engine_of: str) -> None:
    pytest.importorskip("joblib", reason="needs joblib, of the extra 'parallel'")
    files = [str(tmp_path / name) for name in ("a", "b")]
    script = f"""
from rlhf_game.engines import Devices, Local
from tests.test_engines import linger
if __name__ == "__main__":
    list({engine_of}.map(linger, {files!r}))
"""
    (tmp_path / "begin.py").write_text(script)
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, tmp_path / "begin.py"], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    limit = time.monotonic() + 60
    while not all(Path(file).exists() and Path(file).read_text() for file in files) and time.monotonic() < limit:
        time.sleep(0.05)
    workers = [int(Path(file).read_text()) for file in files]
    assert all(map(is_alive, workers))
    process.kill()
    process.wait()
    while any(map(is_alive, workers)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


def die(number: int) -> None:
    os._exit(1)


@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs were given")
def test_a_worker_that_dies_is_a_failed_run() -> None:
    pytest.importorskip("joblib", reason="needs joblib, of the extra 'parallel'")
    with pytest.raises(RunError, match="a worker process died"):
        list(Local(2).map(die, range(4)))


def test_a_map_can_be_left_before_its_end() -> None:
    pytest.importorskip("joblib", reason="needs joblib, of the extra 'parallel'")
    results = Local(2).map(square, range(8, 1000))
    assert next(results)[0] == 64
    results.close()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_ray_maps_in_order_and_plays_the_same_study(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray, of the extra 'ray'")
    assert [result[0] for result in Ray(2).map(square, range(6))] == [0, 1, 4, 9, 16, 25]
    made = study({"sweep": {"strength": [0.2, 1.0]}})
    simulate(made, tmp_path / "serial")
    simulate(made, tmp_path / "ray", Ray(2))
    for name in ("results.parquet", "study.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "serial" / name).read_bytes()


@pytest.mark.parametrize("of", [GAMES, {**MARKET, "games": 6, "chunk": 2, "rounds": 5}], ids=["games", "market"])
def test_the_same_bytes_come_from_one_process_and_from_several(tmp_path: Path, of: dict[str, Any]) -> None:
    pytest.importorskip("joblib", reason="needs joblib, of the extra 'parallel'")
    made = study({"sweep": {"strength": [0.2, 1.0]}}, of)
    simulate(made, tmp_path / "serial")
    simulate(made, tmp_path / "local", Local(2))
    for name in ("results.parquet", "study.json"):
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "serial" / name).read_bytes()


def test_engines_have_names() -> None:
    assert engine("serial") == Serial()
    assert engine("local", 3) == Local(3)
    assert engine("ray", 2, "auto") == Ray(2, "auto")
    assert isinstance(engine("local"), Local)
    for arguments, message in (
        (("cloud",), "engine must be serial, local or ray"),
        (("local", 0), "workers must be an integer >= 1"),
        (("serial", 2), "workers must be 1 with engine serial"),
        (("local", None, "auto"), "address must come with engine ray"),
    ):
        with pytest.raises(InputError, match=message):
            engine(*arguments)


@pytest.mark.parametrize(
    ("module", "chosen", "extra"), [("joblib", Local(2), "parallel"), ("ray", Ray(2), "ray")], ids=["joblib", "ray"]
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, chosen: Engine, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'rlhf-game\[{extra}\]'"):
        list(chosen.map(square, range(2)))
