"""Curves from rollouts of a training, against policies whose responses are listed; the layouts that engines write.

verl at b178a3cd56f58b2d502255daba591e92833930a7: verl/trainer/ppo/ray_trainer.py (_dump_generations) writes
trainer.rollout_data_dir/STEP.jsonl with input, output, gts, score, step and what a reward says beside its score.
OpenRLHF at 3c3be6234e0cb353e76bb8019947db9dfe99fca7 writes no rollouts. TRL's are in tests/trl/test_trl.py.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rlhf_game import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.outcomes.rollouts import read_rollouts
from tests.cli.runner import run as command

STRENGTH, SIZES = 0.5, np.array([2.0, 1.0])
MULTIPLIERS = np.array([1.0, 0.5])
Groups = Callable[..., Path]


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    def write(**changes: Any) -> Path:
        named = [{"name": "first", "size": 2}, {"name": "second"}]
        document = {"strength": STRENGTH, "weights": {"second": 0.5}, "groups": named, **changes}
        (tmp_path / "groups.yaml").write_text(json.dumps(document))
        return tmp_path / "groups.yaml"

    return write


class Listed:
    """Two prompts with seven responses each; p_t is a mixture of the reference and the optimum, in logarithms."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.q, self.rewards = rng.dirichlet(np.ones(7), size=2), rng.random((2, 2, 7))  # [B, m], [n, B, m]
        self.shares = SIZES * MULTIPLIERS

    def policy(self, share: float) -> Array:
        score = np.tensordot(self.shares, self.rewards, 1)
        p = self.q * np.exp(share * score / STRENGTH)
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def best(self, shares: Array) -> float:
        powers = np.exp(np.tensordot(shares, self.rewards, 1) / STRENGTH)
        return float(STRENGTH * np.log((self.q * powers).sum(axis=1)).mean())

    def welfare(self, p: Array, shares: Array) -> float:
        worth = np.tensordot(shares, self.rewards, 1) - STRENGTH * np.log(p / self.q)
        return float((p * worth).sum(axis=1).mean())

    def formula(self, p: Array, i: int) -> float:
        drawn = self.shares[i] * self.rewards[i]
        logs = np.log((p * np.exp(-drawn / STRENGTH)).sum(axis=1))
        return float((STRENGTH * logs + (p * drawn).sum(axis=1)).mean())

    def rows(self, share: float, step: int, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        p = self.policy(share)
        return [
            {
                "global_step": step, "prompt": f"prompt {b}", "response": f"text {k}", "first": self.rewards[0, b, k],
                "second": self.rewards[1, b, k], "log_policy": float(np.log(p[b, k])),
                "log_reference": float(np.log(self.q[b, k])),
            }
            for b in range(2) for k in rng.choice(7, size=count, p=p[b])
        ]  # fmt: skip


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_curves_are_what_each_group_gets_and_owes_at_each_policy(groups: Groups, tmp_path: Path) -> None:
    """The same seed: 1,500 draws of each prompt."""
    listed, rng = Listed(), np.random.default_rng(1)
    shares = {0: 0.0, 10: 0.6, 20: 1.0}
    rows = [row for step, share in shares.items() for row in listed.rows(share, step, 1500, rng)]
    found = read_rollouts(write(tmp_path / "rollouts.parquet", rows), groups())
    assert found.lacks == ()
    near = {"abs": 0.02}
    for i, curve in enumerate(found.groups.values()):
        others = np.where(np.arange(2) == i, 0.0, listed.shares)
        assert [row["step"] for row in curve] == list(shares)
        for row, share in zip(curve, shares.values(), strict=True):
            p = listed.policy(share)
            assert row["value"] == pytest.approx((p * listed.rewards[i]).sum(axis=1).mean(), **near)
            assert row["payment"] == pytest.approx(listed.formula(p, i) / MULTIPLIERS[i], **near)
            left = (listed.best(others) - listed.welfare(p, others)) / MULTIPLIERS[i]
            assert row["externality"] == pytest.approx(left, **near)
            gap = (listed.best(listed.shares) - listed.welfare(p, listed.shares)) / MULTIPLIERS[i]
            assert row["gap"] == pytest.approx(gap, **near)
        assert curve[-1]["gap"] == pytest.approx(0, abs=1e-9)  # the optimum: nothing varies
        assert curve[-1]["payment"] == pytest.approx(curve[-1]["externality"], rel=1e-2)
        assert abs(curve[0]["payment"] - curve[0]["externality"]) > 0.02  # the formula is the optimum's
    last = found.policy[-1]
    assert last["affine_welfare"] == pytest.approx(listed.best(listed.shares), abs=0.02)
    assert last["draws"] == 3000


def test_what_is_not_logged_has_no_curve(groups: Groups, tmp_path: Path) -> None:
    listed, rng = Listed(), np.random.default_rng(1)
    rows = listed.rows(0.5, 3, 4, rng) + listed.rows(0.5, 4, 4, rng)
    for row in rows:
        del row["log_policy"]
    found = read_rollouts(write(tmp_path / "bare.jsonl", rows), groups())
    assert found.lacks == ("externality", "gap")
    assert found.groups["first"][0].keys() == {"step", "value", "payment"}
    assert found.policy[0].keys() == {"step", "social_welfare", "draws"}
    lone = [row | {"prompt": str(k)} for k, row in enumerate(rows)]
    found = read_rollouts(write(tmp_path / "lone.jsonl", lone), groups())
    assert found.lacks == ("payment", "externality", "gap")
    page = command("report", tmp_path / "lone.jsonl", "--groups", groups())
    assert (page.code, page.err) == (0, "")
    html = (tmp_path / "lone.report.html").read_text()
    assert "no certificate and no bill" in html
    assert "no prompt has two draws in one step" in html


def test_prompts_with_other_numbers_of_draws_count_alike(groups: Groups, tmp_path: Path) -> None:
    listed, rng = Listed(), np.random.default_rng(1)
    rows = listed.rows(0.5, 0, 6, rng)
    later = listed.rows(0.5, 1, 2, rng)
    even, uneven = [*rows, *later], [*rows, *rows[6:], *rows[6:], *later]
    mine, theirs = (read_rollouts(write(tmp_path / "rows.jsonl", some), groups()) for some in (even, uneven))
    for name in ("first", "second"):
        for key in ("value", "externality", "gap"):
            assert mine.groups[name][0][key] == pytest.approx(theirs.groups[name][0][key], rel=1e-12)


def test_a_folder_of_verls_rollouts(groups: Groups, tmp_path: Path) -> None:
    """As the exported reward says each group's reward beside the score: no calibration is for these any more."""
    folder = tmp_path / "rollouts"
    folder.mkdir()
    for step in (1, 2, 10):
        rows = [
            {"input": "user\nwhy\nassistant\n", "output": f"text {k}", "gts": "0", "score": 2.0, "step": step,
             "group_first": k / 4, "group_second": 1 - k / 4 + step / 100 - 0.1, "request_id": "x"} for k in range(4)
        ]  # fmt: skip
        write(folder / f"{step}.jsonl", rows)
    logistic = {"kind": "logistic", "center": 0, "scale": 1}
    named = [{"name": "first", "size": 2, "calibration": logistic}, {"name": "second", "calibration": logistic}]
    file = groups(groups=named)
    found = read_rollouts(folder, file)
    assert [row["step"] for row in found.policy] == [1, 2, 10]
    assert [row["value"] for row in found.groups["first"]] == pytest.approx([0.375] * 3)
    assert command("report", folder, "--groups", file, "-o", tmp_path / "page.html").code == 0
    assert "payment" in (tmp_path / "page.html").read_text()
    raw = [{**row, "first": row["group_first"], "second": 0.0, "step": step} for row in rows for step in (1, 2)]
    for row in raw:
        del row["group_first"], row["group_second"]
    found = read_rollouts(write(tmp_path / "raw.jsonl", raw), file)
    assert found.groups["second"][0]["value"] == pytest.approx(0.5)  # the calibration of a score of 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"global_step": None}, "row 1: step or global_step or training_step"),
        ({"global_step": -1}, "line 2: global_step: must be >= 0, found -1"),
        ({"global_step": "3"}, "line 2: global_step: must be a finite number, found the text"),
        ({"global_step": float("nan")}, "global_step: must be a finite number"),
        ({"first": float("nan")}, "line 2: first: must be a finite number"),
        ({"first": 10**400}, "line 2: first: must be a finite number"),
        ({"first": 1.5}, "groups[0].calibration: "),
        ({"first": None}, "line 2: first: must be given, as in the first row, found nothing"),
        ({"prompt": 3}, "line 2: prompt: must be"),
        ({"response": ["a"]}, "line 2: response[0]: must be"),
        ({"log_policy": 2.0}, "line 2: log_policy: must be a log probability, at most 0"),
        ({"log_reference": "x"}, "line 2: log_reference: must be a finite number"),
    ],
)
def test_rows_that_are_no_rollouts_are_refused(
    groups: Groups, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    rows = [row for step in (1, 2) for row in Listed().rows(0.5, step, 3, np.random.default_rng(0))]
    changed = rows if changes != {"global_step": None} else [{**row, **changes} for row in rows]
    if changed is rows:
        changed[1] |= changes
    result = command("report", write(tmp_path / "rows.jsonl", changed), "--groups", groups())
    assert (result.code, result.err.count("\n"), result.out) == (2, 1, "")
    assert said.replace("row 1", "line 1") in result.err
    assert not (tmp_path / "rows.report.html").exists()


def test_what_does_not_go_with_rollouts_is_refused(groups: Groups, tmp_path: Path) -> None:
    drawn = [row for step in (1, 2) for row in Listed().rows(0.5, step, 3, np.random.default_rng(0))]
    rows = write(tmp_path / "rows.jsonl", drawn)
    with pytest.raises(InputError, match="once.jsonl: global_step: must be two or more, for a curve, found one"):
        read_rollouts(write(tmp_path / "once.jsonl", drawn[:4]), groups())
    taken = groups(groups=[{"name": "score"}], weights={})
    with pytest.raises(InputError, match=r"groups\[0\].name: must be a column of rewards, found 'score'"):
        read_rollouts(rows, taken)
    with pytest.raises(InputError, match="must be kl with outcomes finetuned"):
        read_rollouts(rows, groups(regularizer="l2"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"must hold rollouts ending in .parquet, .jsonl"):
        read_rollouts(empty, groups())
    for code, arguments, said in (
        (2, (rows,), "--groups: must name whose rewards the rows of rows.jsonl have"),
        (2, (rows, "--groups", groups(), "--audit", rows), "--groups: must be with rollouts, found it with --audit"),
        (2, (rows, "--groups", groups(), "-o", rows), "must be another file than the rollouts"),
        (2, (rows, "--groups", groups(), "-o", groups()), "must be another file than the groups"),
    ):
        result = command("report", *arguments)
        assert (result.code, result.err.count("\n")) == (code, 1), result.err
        assert said in result.err
    settled = command("settle", "--draws", rows, "--groups", groups())
    assert (settled.code, settled.out) == (2, "")
    assert "report FILE --groups FILE" in settled.err
