"""``settle`` and ``verify`` as people and scripts use them."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlhf_game
from tests.cli.runner import run

GAMES = sorted((Path(__file__).resolve().parents[2] / "examples" / "games").glob("*.yaml"))
HAND = {  # theory: one game by hand
    "reference": [0.5, 0.5],
    "strength": 1,
    "groups": [{"name": "a", "size": 1, "reward": [1, 0]}, {"name": "b", "size": 1, "reward": [0, 1]}],
}


def write(path: Path, *documents: Any) -> Path:
    path.write_text("\n".join(json.dumps(document) for document in documents) + "\n")
    return path


def numbers_of(receipt: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The places of all leaves of a receipt."""
    if isinstance(receipt, dict):
        return [leaf for key, value in receipt.items() for leaf in numbers_of(value, (*path, key))]
    if isinstance(receipt, list):
        return [leaf for i, value in enumerate(receipt) for leaf in numbers_of(value, (*path, i))]
    return [path]


def tampered(receipt: Any, path: tuple[str | int, ...]) -> Any:
    """The receipt with one leaf changed a little: a number by 1e-6 of itself (a zero by 1e-6)."""
    receipt = copy.deepcopy(receipt)
    *parents, last = path
    place = receipt
    for parent in parents:
        place = place[parent]
    value = place[last]
    if isinstance(value, str):
        place[last] = value + "x"
    elif value is None:
        place[last] = "kl"
    elif isinstance(value, int):
        place[last] = value + 1
    else:
        place[last] = value * (1 + 1e-6) if value else 1e-6
    return receipt


def test_a_folder_is_no_place_for_a_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game = write(tmp_path / "g.json", HAND)
    monkeypatch.chdir(tmp_path)
    for place in (".", "/", str(tmp_path)):
        result = run("settle", game, "-o", place)
        assert (result.code, result.out) == (2, "")
        assert "the output must be a file, found a folder" in result.err
    assert sorted(tmp_path.iterdir()) == [game]


def test_a_game_in_the_place_of_its_receipt_is_said_to_be_so(tmp_path: Path) -> None:
    assert run("settle", GAMES[0], "-o", tmp_path / "receipt.json").code == 0
    result = run("verify", GAMES[0], tmp_path / "receipt.json")
    assert (result.code, result.out) == (2, "")
    assert "found them the other way round" in result.err


def test_the_game_by_hand(tmp_path: Path) -> None:
    result = run("settle", write(tmp_path / "g.json", HAND), "--json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    assert list(receipt) == [
        "version", "game_sha256", "regularizer", "strength", "payment", "policy", "social_welfare", "divergence",
        "affine_social_welfare", "groups",
    ]  # fmt: skip
    assert receipt["version"] == rlhf_game.__version__
    assert (receipt["regularizer"], receipt["strength"], receipt["payment"]) == ("kl", 1.0, "affine")
    assert receipt["policy"] == pytest.approx([0.5, 0.5], abs=1e-15)  # one rounding
    assert receipt["affine_social_welfare"] == pytest.approx(1, abs=1e-15)
    for name, group in zip("ab", receipt["groups"], strict=True):
        assert list(group) == ["name", "size", "value", "payment", "utility", "privacy"]
        assert (group["name"], group["size"], group["value"]) == (name, 1, 0.5)
        assert group["privacy"]["epsilon"] is None  # no domain is declared
        assert group["privacy"]["realised_loss"] == pytest.approx(np.log((1 + np.e) / 2), rel=1e-12)
        assert group["payment"] == pytest.approx(0.120114506958, abs=5e-13)  # as printed, 12 digits
        assert group["utility"] == pytest.approx(0.379885493042, abs=5e-13)


@pytest.mark.parametrize("game", GAMES, ids=lambda path: path.stem)
def test_every_example_settles_verifies_and_shows_a_table(game: Path, tmp_path: Path) -> None:
    result = run("settle", game, "-o", tmp_path / "receipt.json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    for group in receipt["groups"]:
        (row,) = (line.split() for line in result.out.splitlines() if line.strip().startswith(group["name"]))
        shown = [f"{group[key]:.6g}" for key in ("value", "payment", "utility")]
        assert [row[1], row[2], row[4], row[5]] == [str(group["size"]), *shown]
    assert f"{sum(group['payment'] for group in receipt['groups']):.6g}" in result.out.split()
    assert json.loads(run("settle", game, "--json").out) == receipt
    assert run("verify", tmp_path / "receipt.json", game).code == 0


@pytest.mark.parametrize("game", GAMES, ids=lambda path: path.stem)
def test_verify_catches_every_tampered_number_and_name(game: Path, tmp_path: Path) -> None:
    receipt = json.loads(run("settle", game, "--json").out)
    leaves = numbers_of(receipt)
    if len(leaves) > 60:  # a long policy: its corners, and everything that is not policy
        policy = [leaf for leaf in leaves if leaf[0] == "policy"]
        leaves = [leaf for leaf in leaves if leaf[0] != "policy"] + policy[:6] + policy[-6:]
    for leaf in leaves:
        if receipt["regularizer"] is None and leaf == ("strength",):
            continue
        result = run("verify", write(tmp_path / "r.json", tampered(receipt, leaf)), game)
        assert result.code == 3, leaf
        assert str(leaf[-1] if isinstance(leaf[-1], str) else leaf[0]) in result.out
        assert result.err == ""


def test_verify_says_what_differs_and_takes_the_game_of_the_receipt_only(tmp_path: Path) -> None:
    game = write(tmp_path / "g.json", HAND)
    receipt = json.loads(run("settle", game, "--json").out)
    receipt["groups"][1]["payment"] = 0.1
    result = run("verify", write(tmp_path / "r.json", receipt), game)
    assert result.code == 3
    assert result.out.startswith("groups[1].payment: the receipt says 0.1, the game gives 0.120114506958")
    assert result.out.count("\n") == 1
    other = write(tmp_path / "h.json", HAND | {"strength": 2})
    lines = run("verify", tmp_path / "r.json", other).out.splitlines()
    assert {line.partition(":")[0] for line in lines} >= {"game_sha256", "strength", "groups[0].payment"}


def test_verify_sees_tiny_payments_beside_large_utilities(tmp_path: Path) -> None:
    tiny = HAND | {"strength": 1e8, "groups": [HAND["groups"][0], HAND["groups"][1] | {"reward": [0, 1e-5]}]}  # type: ignore[index]
    game = write(tmp_path / "g.json", tiny)
    receipt = json.loads(run("settle", game, "--json").out)
    assert 0 < receipt["groups"][1]["payment"] < 1e-18
    assert run("verify", write(tmp_path / "r.json", receipt), game).code == 0
    receipt["groups"][1]["payment"] *= 1 + 1e-8
    assert run("verify", write(tmp_path / "r.json", receipt), game).code == 3


def test_an_exact_number_is_met_by_a_number_only(tmp_path: Path) -> None:
    game = write(tmp_path / "g.json", HAND)
    receipt = json.loads(run("settle", game, "--json").out)
    for low, high in ((0.12, 0.13), (0.13, 0.14), (-1e308, 1e308)):
        receipt["groups"][0]["payment"] = {"estimate": (low + high) / 2, "low": low, "high": high, "level": 1.0}
        result = run("verify", write(tmp_path / "r.json", receipt), game)
        assert result.code == 3
        assert result.out.startswith(f"groups[0].payment: the receipt says {low} to {high}, the game gives 0.12")
    receipt["groups"][0]["payment"] = {"estimate": 1, "low": 2, "high": 3, "level": 1.0}
    result = run("verify", write(tmp_path / "r.json", receipt), game)
    assert (result.code, "must have low <= estimate <= high" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"groups": []}, "r.json: groups: must not be empty"),
        ({"policy": "x"}, "r.json: policy: must be a list"),
        ({"policy": [[0.5], "x"]}, "r.json: policy[1]: must be a list"),
        ({"divergence": None}, "r.json: divergence: must be a number, found nothing"),
        ({"divergence": {"low": 0}}, "r.json: divergence.estimate: must be given"),
        ({"groups": [{"name": "a"}]}, "r.json: groups[0].size: must be given"),
    ],
)
def test_what_is_no_receipt_is_wrong_input(tmp_path: Path, change: dict[str, Any], wanted: str) -> None:
    game = write(tmp_path / "g.json", HAND)
    receipt = json.loads(run("settle", game, "--json").out) | change
    result = run("verify", write(tmp_path / "r.json", receipt), game)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert wanted in result.err
    assert run("verify", tmp_path / "none.json", game).code == 2


def test_lines_give_one_receipt_a_line_in_order(tmp_path: Path) -> None:
    games = [HAND | {"strength": strength} for strength in (3, 1, 2)]
    path = write(tmp_path / "g.jsonl", *games)
    result = run("settle", path, "--json", "-o", tmp_path / "r.jsonl")
    assert result.out == (tmp_path / "r.jsonl").read_text()
    receipts = [json.loads(line) for line in result.out.splitlines()]
    assert [receipt["strength"] for receipt in receipts] == [3, 1, 2]
    for game, receipt in zip(games, receipts, strict=True):
        assert json.loads(run("settle", write(tmp_path / "g.json", game), "--json").out) == receipt
    assert run("verify", tmp_path / "r.jsonl", path).code == 0
    table = run("settle", path).out
    assert [line.split()[:2] for line in table.splitlines() if "line" in line] == [["line", n] for n in "123"]
    receipts[1]["divergence"] = 1.0
    result = run("verify", write(tmp_path / "r.jsonl", *receipts[:2]), path)
    assert result.code == 3
    assert result.out.startswith("the receipt has 2 lines, the game file 3\nline 2: divergence: the receipt says 1.0")


def test_names_can_neither_style_the_table_nor_steer_the_terminal(tmp_path: Path) -> None:
    names = ["[bold red]x[/]", "\x1b[2J\x07\r\nsales", "[/nonsense]", "名前"]
    groups = [{"name": name, "size": 1, "reward": [1, 0]} for name in names]
    result = run("settle", write(tmp_path / "g.json", HAND | {"groups": groups}))
    assert result.code == 0
    for shown in ("[bold red]x[/]", "\\x1b[2J\\x07\\r\\nsales", "[/nonsense]", "名前"):
        assert shown in result.out
    assert not set(result.out) & set("\x1b\x07\r")


def test_the_output_cannot_be_the_game_or_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    game = write(tmp_path / "g.json", HAND)
    before = game.read_bytes()
    for out, wanted in ((game, "found the game itself"), (tmp_path / "no" / "r.json", "found none")):
        result = run("settle", game, "-o", out)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert wanted in result.err
    assert game.read_bytes() == before


def test_version_and_help() -> None:
    assert run("--version").out == f"rlhf-game {rlhf_game.__version__}\n"
    for arguments in ([], ["--help"], ["settle", "--help"]):
        result = run(*arguments)
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("Usage: rlhf-game")


def test_a_terminal_that_knows_only_ascii_gets_escapes(tmp_path: Path) -> None:
    game = write(tmp_path / "g.json", HAND | {"groups": [{"name": "名", "size": 1, "reward": [1, 0]}]})
    done = process("settle", game, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u540d" in done.stdout


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "rlhf_game", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, check=False)


def test_the_process_ends_with_the_code_and_one_line(tmp_path: Path) -> None:
    done = process("settle", tmp_path / "none.yaml")
    assert done.returncode == 2
    assert done.stderr.decode() == f"rlhf-game: {tmp_path / 'none.yaml'}: must be a file, found nothing there\n"


@pytest.mark.parametrize("outcomes", [2, 20_000])  # less and more than what a pipe holds
def test_a_reader_that_leaves_causes_no_traceback(tmp_path: Path, outcomes: int) -> None:
    reward = [0.0] * outcomes
    game = {
        "reference": [1 / outcomes] * outcomes,
        "strength": 1,
        "groups": [{"name": "a", "size": 1, "reward": reward}],
    }
    path = write(tmp_path / "g.json", game)
    command = [sys.executable, "-m", "rlhf_game", "settle", str(path), "--json"]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "",
    }  # so that the small output meets the closed pipe at the end only
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 1


def test_an_interrupt_causes_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(path: object, **options: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("rlhf_game.files.games.read_games", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins without it
    try:
        result = run("settle", write(tmp_path / "g.json", HAND))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.code, result.out, result.err) == (130, "", "rlhf-game: interrupted\n")


@pytest.mark.parametrize(("closed", "code"), [(">&-", 1), ("2>&-", 0), (">&- 2>&-", 1)])
def test_a_closed_stream_causes_no_traceback(tmp_path: Path, closed: str, code: int) -> None:
    game, out = write(tmp_path / "g.json", HAND), tmp_path / "r.json"
    for options in ("--json", f"-o {out}"):
        line = f"{sys.executable} -m rlhf_game settle {game} {options} {closed}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (code, b"")
    assert json.loads(out.read_text())["groups"]
    line = f"{sys.executable} -m rlhf_game settle {tmp_path / 'none.json'} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_full_disk_is_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = run("settle", write(tmp_path / "g.json", HAND), "-o", tmp_path / "r.json")
    assert (result.code, result.err) == (1, "rlhf-game: [Errno 28] No space left on device\n")
    assert sorted(os.listdir(tmp_path)) == ["g.json"]
