"""Tables in files larger than the memory that they may use, and policies too long for a receipt."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from benchmarks import larger_than_memory as large
from rlhf_game.errors import InputError
from rlhf_game.files import build, games, policies, tables
from rlhf_game.files.games import read_game
from rlhf_game.mechanism import arrays
from rlhf_game.mechanism.spaces import table as table_module
from tests.cli.runner import run

RAGGED = [[0.5, 0.5], [0.2, 0.3, 0.5]]
GAMES: dict[str, dict[str, Any]] = {
    "flat": {"reference": [0.5, 0.3, 0.2], "reward": [1, 0, 0]},
    "prompts": {"reference": [[0.5, 0.5], [0.1, 0.9]], "reward": [[1, 0], [0, 1]]},
    "ragged": {"reference": RAGGED, "reward": [[1, 0], [0, 1, 0]]},
    "missing": {"reference": RAGGED, "reward": [[1, 0], [0, 1, 0]], "missing": [0.1, 0.2], "bounds": [0, 1]},
    "automaton": {
        "space": "automaton", "next_state": [[0, 1], [1, 0]], "reference": [[0.5, 0.5], [0.1, 0.9]], "horizon": 3,
        "reward": [[1, 0], [0, 1]],
    },
    "menu": {"space": "menu", "divergence": [0, 0.1, 0.2], "reward": [0, 1, 0]},
}  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc/self/status")
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_settling_takes_a_fraction_of_the_memory_that_the_tables_would(suffix: str, tmp_path: Path) -> None:
    outcomes = arrays.LARGE
    small, big = tmp_path / "small", tmp_path / "big"
    small.mkdir()
    big.mkdir()
    _, _, least, _ = large.settle(large.write_game(small, 1000, suffix), "--json")
    game = large.write_game(big, outcomes, suffix)
    receipt, _, peak, _ = large.settle(game, "--json")
    vector = 8 * outcomes / 1e6
    # the score, the pages that are mapped at a time, and pyarrow's buffers; the input is 9 vectors, as JSON 20 each
    assert peak - least < vector + 8 * arrays.RELEASE / 1e6 + 50 < 5 * vector
    payments = [group["payment"] for group in receipt["groups"]]
    np.testing.assert_allclose(payments, large.payments_apart(outcomes).astype(float), rtol=1e-12)
    assert policies.digest(big / receipt["policy"]["file"]) == receipt["policy"]["sha256"]
    p = np.load(big / receipt["policy"]["file"], mmap_mode="r")
    assert p.shape == (outcomes,)
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc/self/status")
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_fifty_million_outcomes_within_a_gigabyte(suffix: str, tmp_path: Path) -> None:
    outcomes = 50_000_000
    receipt, _, peak, _ = large.settle(large.write_game(tmp_path, outcomes, suffix))
    for file in tmp_path.glob("re[fw]*.npy"):
        file.unlink()
    assert peak < 1000
    payments = [group["payment"] for group in receipt["groups"]]
    np.testing.assert_allclose(payments, large.payments_apart(outcomes).astype(float), rtol=1e-9)


def peak_of(function: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_values_without_each_group_hold_one_policy_at_a_time(tmp_path: Path) -> None:
    outcomes = 200_000
    game = read_game(large.write_game(tmp_path, outcomes))
    build.settle(game)  # what is imported on first use
    assert peak_of(lambda: build.settle_without(game)) < peak_of(lambda: build.settle(game)) + 8 * outcomes / 2


def test_a_file_of_many_columns_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = large.write_game(tmp_path, 1000, ".parquet"), []
    expected = read_game(path).sha256
    monkeypatch.setattr(games, "digest", lambda file: seen.append(file) or tables.digest(file))
    assert read_game(path).sha256 == expected
    assert seen == [tmp_path / "table.parquet"]


def write(folder: Path, name: str) -> Path:
    fields = dict(GAMES[name])
    reward = fields.pop("reward")
    groups = [{"name": "a", "size": 2, "reward": reward}, {"name": "b", "size": 1, "reward": reward}]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**fields, "strength": 0.5, "groups": groups}))
    return path


def flat(policy: Any) -> list[float]:
    return [number for part in policy for number in flat(part)] if isinstance(policy, list) else [policy]


@pytest.mark.parametrize("name", sorted(GAMES))
def test_a_long_policy_is_a_file_beside_the_receipt(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game, receipt = write(tmp_path, name), tmp_path / "receipt.json"
    assert run("settle", game, "-o", receipt).code == 0
    short = json.loads(receipt.read_text())
    monkeypatch.setattr(policies, "LARGE", 2)
    assert run("settle", game, "-o", receipt).code == 0
    long = json.loads(receipt.read_text())
    assert long["policy"]["file"] == "receipt.policy.npy"
    stored = np.load(tmp_path / "receipt.policy.npy")
    assert stored.ravel().tolist() == flat(short["policy"])
    assert stored.shape == ((5,) if name in ("ragged", "missing") else np.shape(short["policy"]))
    assert not any("privacy" in group for group in long["groups"])  # it would take another reading of everything
    for group in short["groups"]:
        group.pop("privacy", None)
    assert {**long, "policy": None} == {**short, "policy": None}
    assert run("verify", receipt, game).code == 0


def test_without_a_receipt_file_a_long_policy_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game = write(tmp_path, "flat")
    monkeypatch.setattr(policies, "LARGE", 2)
    result = run("settle", game, "--json")
    assert (result.code, json.loads(result.out)["policy"]) == (0, None)
    (tmp_path / "receipt.json").write_text(result.out)
    assert run("verify", tmp_path / "receipt.json", game).code == 0
    monkeypatch.undo()
    refused = run("verify", tmp_path / "receipt.json", game)
    assert (refused.code, refused.out.startswith("policy: ")) == (3, True)


def test_long_policies_of_a_list_of_games(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    games = tmp_path / "games.jsonl"
    games.write_text("".join(write(tmp_path, name).read_text() + "\n" for name in ("flat", "menu", "prompts")))
    monkeypatch.setattr(policies, "LARGE", 4)
    assert run("settle", games, "-o", tmp_path / "receipts.jsonl").code == 0
    said = [json.loads(line)["policy"] for line in (tmp_path / "receipts.jsonl").read_text().splitlines()]
    assert [isinstance(policy, list) for policy in said] == [True, True, False]
    assert said[2]["file"] == "receipts.3.policy.npy"
    assert run("verify", tmp_path / "receipts.jsonl", games).code == 0


def test_a_policy_file_that_was_changed_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "LARGE", 2)
    game, receipt, stored = write(tmp_path, "flat"), tmp_path / "receipt.json", tmp_path / "receipt.policy.npy"
    assert run("settle", game, "-o", receipt).code == 0
    honest = np.load(stored)

    def verified(policy: Any, *, signed: bool) -> tuple[int, str]:
        np.save(stored, policy)
        document = json.loads(receipt.read_text())
        if signed:
            document["policy"]["sha256"] = tables.digest(stored)
            receipt.write_text(json.dumps(document))
        result = run("verify", receipt, game)
        return result.code, result.out

    lie = honest + [0, 1e-6, 0]
    assert verified(lie, signed=False)[1].startswith("policy.sha256: the receipt says")
    code, said = verified(lie, signed=True)
    assert (code, said.startswith("policy[1]: the receipt says")) == (3, True)
    assert "another shape or type" in verified(honest.astype(np.float32), signed=True)[1]
    assert "another shape or type" in verified(honest[:2], signed=True)[1]
    assert verified(honest, signed=True)[0] == 0
    stored.write_bytes(stored.read_bytes() + b"more")
    document = json.loads(receipt.read_text())
    document["policy"]["sha256"] = tables.digest(stored)
    receipt.write_text(json.dumps(document))
    assert "is longer" in run("verify", receipt, game).out
    stored.unlink()
    missing = run("verify", receipt, game)
    assert missing.code == 2
    assert "policy.file: must name a file beside the receipt" in missing.err


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<i8", "<u1", "<f8"])
@pytest.mark.parametrize("shape", [(24,), (4, 6)])
def test_files_of_any_number_are_mapped_when_they_are_large(
    kind: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(24).reshape(shape).astype(kind)
    np.save(tmp_path / "t.npy", values)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(values))
    monkeypatch.setattr(tables, "LARGE", 10)
    monkeypatch.setattr(tables, "PART", 16)
    for name in ("t.npy", "fortran.npy"):
        table = tables.read_table(name, tmp_path)
        assert isinstance(table, np.memmap)
        assert not table.flags.writeable
        assert table.dtype == np.float64
        np.testing.assert_array_equal(table, values)


def test_large_columns_of_parquet_are_mapped_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "x": pa.array(np.arange(24.0)),
        "f": pa.array(np.arange(24, dtype=np.float32)),
        "hole": pa.array([*range(23), None]),
        "list": pa.array([[0.5, 0.5]] * 24),
        "text": pa.array(["a"] * 24),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=10)
    monkeypatch.setattr(tables, "LARGE", 10)
    monkeypatch.setattr(tables, "PART", 32)
    for name in ("x", "f"):
        table = tables.read_table(f"t.parquet:{name}", tmp_path)
        assert isinstance(table, np.memmap)
        np.testing.assert_array_equal(table, np.arange(24.0))
    assert np.shape(tables.read_table("t.parquet:list", tmp_path)) == (24, 2)
    for name, message in (("hole", "no nulls"), ("text", "must hold numbers")):
        with pytest.raises(InputError, match=message):
            tables.read_table(f"t.parquet:{name}", tmp_path)


def test_changes_of_a_private_map_survive_reading(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.zeros((1, 10)))
    private = np.load(tmp_path / "t.npy", mmap_mode="c")
    private[0, 3] = 7.0
    list(arrays.blocks(private.shape, 1, [private, private[:, 2:]]))
    assert private[0, 3] == 7.0


def test_large_arrays_are_viewed_and_small_ones_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = rg.Table([0.5, 0.3, 0.2], rg.KL(1.0))
    reward = np.array([1.0, 0.0, 0.5])
    assert not np.shares_memory(space.read(reward)[0], reward)
    np.save(tmp_path / "t.npy", reward)
    mapped = np.load(tmp_path / "t.npy", mmap_mode="r")
    assert np.shares_memory(space.read(mapped)[0], mapped)
    monkeypatch.setattr(arrays, "LARGE", 3)
    (sheet,) = space.read(reward)
    assert np.shares_memory(sheet, reward)
    assert not sheet.flags.writeable
    assert reward.flags.writeable


@pytest.mark.parametrize("regularizer", [rg.KL(1.0), rg.SquaredL2(1.0), rg.JensenShannon(1.0)], ids=lambda r: r.name)
def test_a_large_reference_that_is_a_little_off_counts_as_renormalised(
    regularizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, reports = np.array([0.5, 0.3, 0.2]), [rg.Report([1.0, 0.0, 0.0], size=2), rg.Report([0.0, 1.0, 0.5])]
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    exact = mechanism.settle(reports, rg.Table(q, regularizer))
    for module, name in ((arrays, "LARGE"), (table_module, "BLOCK")):
        monkeypatch.setattr(module, name, 1)
    off = mechanism.settle(reports, rg.Table(q * (1 + 5e-7), regularizer))
    assert float(np.sum(off.policy.probabilities)) == pytest.approx(1, abs=1e-15)
    np.testing.assert_allclose(off.payments, exact.payments, rtol=1e-13)
    np.testing.assert_allclose(off.values, exact.values, rtol=1e-13)
    assert off.policy.welfare == pytest.approx(exact.policy.welfare, rel=1e-13)
    assert off.policy.divergence == pytest.approx(exact.policy.divergence, rel=1e-12)


def test_a_page_that_was_let_go_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "q.npy", rng.dirichlet(np.ones(50_000)))
    np.save(tmp_path / "r.npy", rng.uniform(0, 1, (2, 50_000)))
    monkeypatch.setattr(arrays, "RELEASE", 1000)
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    settled = []
    for mode in (None, "r"):
        q, rewards = (np.load(tmp_path / name, mmap_mode=mode) for name in ("q.npy", "r.npy"))
        for regularizer in (rg.KL(0.3), rg.SquaredL2(1e-3), rg.PearsonChi2(1.0)):
            settled.append(mechanism.settle([rg.Report(r) for r in rewards], rg.Table(q, regularizer)).payments)
    np.testing.assert_array_equal(settled[:3], settled[3:])


def test_the_script_runs_at_a_small_size(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.larger_than_memory", "1000", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("payments off by at most") == 4
    assert list(tmp_path.iterdir()) == []
