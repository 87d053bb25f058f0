"""How far bills depend on the members of ensembles: what settling with each member by hand gives, and nothing else."""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.files.build import settle
from rlhf_game.files.games import parse_game
from rlhf_game.files.run_folder import parquet_bytes, read_parquet
from rlhf_game.files.workspace import SUMS, Workspace
from rlhf_game.outcomes import over_members, read_config
from rlhf_game.outcomes import run as run_pipeline
from tests.cli.runner import run

SCORES = np.random.default_rng(3).normal(size=(5, 2, 4))
MEMBERS = {"legal": (0, 1, 2), "sales": (3, 4)}
LOGISTIC = {"kind": "logistic", "center": 0.2, "scale": 0.7}


def config(tmp_path: Path, calibration: Any, scores: np.ndarray = SCORES) -> Path:
    rows = [
        {"prompt": f"p{b}", "response": f"r{k}", **{f"m{j}": scores[j, b, k] for j in range(5)}}
        for b, k in product(range(2), range(4))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ensemble(name: str, aggregate: str) -> Any:
        return {"ensemble": {"members": [{"column": f"m{j}"} for j in MEMBERS[name]], "aggregate": aggregate}}

    groups = [
        {"name": "legal", "size": 3, "reward": ensemble("legal", "mean"), "calibration": calibration},
        {"name": "sales", "size": 2, "reward": ensemble("sales", "min"), "calibration": calibration},
        {"name": "ops", "size": 1, "reward": {"column": "m0"}, "calibration": calibration},
    ]
    outcomes = {"kind": "given", "file": "rows.jsonl"}
    (tmp_path / "run.json").write_text(json.dumps({"outcomes": outcomes, "strength": 0.3, "groups": groups}))
    return tmp_path / "run.json"


def logistic(scores: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-(scores - 0.2) / 0.7)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, beside its configuration."""
    folder = tmp_path_factory.mktemp("members")
    run_pipeline(read_config(config(folder, LOGISTIC)), folder / "out")
    return folder / "out"


def documents(out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    game, receipt = (json.loads((out / name).read_text()) for name in ("game.json", "receipt.json"))
    return game, receipt


def by_hand(game: dict[str, Any], members: dict[str, int]) -> np.ndarray:
    """Write the game with some groups' rewards exchanged for a member's, and settle it."""
    groups = [
        {**group, "reward": logistic(SCORES[members[group["name"]]]).tolist()} if group["name"] in members else group
        for group in game["groups"]
    ]
    return settle(parse_game({**game, "groups": groups}, "by hand", Path(), False)).payments


def summary(bills: Any) -> dict[str, float]:
    return {"min": min(bills), "median": float(np.median(bills)), "max": max(bills)}


def test_the_bills_are_those_of_settling_with_each_member_by_hand(finished: Path) -> None:
    game, receipt = documents(finished)
    found = receipt["provenance"]["over_members"]
    for i, (name, members) in enumerate(MEMBERS.items()):
        said = found["groups"][i]
        bills = [by_hand(game, {name: j})[i] for j in members]
        assert (said["name"], said["members"]) == (name, len(members))
        assert said["payment"] == pytest.approx(summary(bills), rel=1e-12)
        reported = np.array(game["groups"][i]["reward"])
        error = max(np.abs(logistic(SCORES[j]) - reported).max() for j in members)
        assert said["error"] == pytest.approx(error, rel=1e-12)
        assert said["regret_bound"] == pytest.approx(2 * game["groups"][i]["size"] * error, rel=1e-12)
    pairs = list(product(*MEMBERS.values()))
    together = np.array([by_hand(game, dict(zip(MEMBERS, pair, strict=True))) for pair in pairs])
    assert (found["joint"]["combinations"], found["joint"]["of"]) == (6, 6)
    for i, said in enumerate(found["joint"]["groups"]):
        assert said["payment"] == pytest.approx(summary(together[:, i]), rel=1e-12)


@pytest.mark.parametrize(("change", "is_known"), [({"fee": 0.1}, True), ({"payment": "none"}, False)])
def test_the_bound_is_known_where_a_report_moves_its_payment_as_affine_ones_do(
    finished: Path, change: dict[str, Any], is_known: bool
) -> None:
    game = parse_game({**documents(finished)[0], **change}, "changed", Path(), False)
    (found,) = over_members.over_members(game, {"legal": [logistic(SCORES[j]) for j in MEMBERS["legal"]]}, 0)["groups"]
    plain = documents(finished)[1]["provenance"]["over_members"]["groups"][0]["regret_bound"]
    assert found["regret_bound"] == (pytest.approx(plain, rel=1e-12) if is_known else None)


def test_the_bound_holds_where_a_member_is_the_truth(finished: Path) -> None:
    """Thm 4.9: reporting the ensemble costs a group whose truth is one member at most 2 size error."""
    game, receipt = documents(finished)
    loss = []
    for i, (name, members) in enumerate(MEMBERS.items()):
        for j in members:
            truth, size = logistic(SCORES[j]), game["groups"][i]["size"]
            used = []
            for said in (game, {**game, "groups": [*game["groups"]]}):
                if said is not game:
                    said["groups"][i] = {**game["groups"][i], "reward": truth.tolist()}
                settled = settle(parse_game(said, "said", Path(), False))
                value = np.mean((np.array(settled.policy.probabilities) * truth).sum(axis=1))
                used.append(size * value - settled.payments[i])
            loss.append((used[1] - used[0]) / receipt["provenance"]["over_members"]["groups"][i]["regret_bound"])
            assert name == game["groups"][i]["name"]
    assert -1e-12 <= min(loss) <= max(loss) <= 1
    assert max(loss) > 0.01  # it is the loss of something


def test_members_are_verified_with_the_run(finished: Path, tmp_path: Path) -> None:
    """The spread is made again from the members' scores, and the ensemble's score from them."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    assert run("verify", out).code == 0
    assert run("verify", out, finished.with_name("run.json"), "--recompute", "3").code == 0
    _, receipt = documents(out)
    for change, where in (({"what": "certain"}, "what"), ({"groups": []}, "groups"), (None, "over_members")):
        over = {**receipt["provenance"]["over_members"], **(change or {})}
        provenance = {**receipt["provenance"], "over_members": None if change is None else over}
        _forge(out, {"receipt.json": json.dumps({**receipt, "provenance": provenance}).encode()})
        found = run("verify", out)
        assert (found.code, where in found.out) == (3, True)
    columns, origin = read_parquet(out / "scores.parquet")
    columns["member 1:legal"][2] += 1e-3
    _forge(out, {"receipt.json": json.dumps(receipt).encode(), "scores.parquet": parquet_bytes(columns, origin)})
    found = run("verify", out)
    assert (found.code, "raw:legal" in found.out) == (3, True)


def _forge(out: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (out / name).write_bytes(content)
    (out / SUMS).unlink()
    workspace = Workspace(out)
    workspace.adopt(*workspace.files())


def test_of_many_combinations_some_are_drawn_and_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_members, "MOST_COMBINATIONS", 4)
    ran = run("run", config(tmp_path, LOGISTIC), "-o", tmp_path / "out")
    assert "not a confidence interval" in ran.out
    assert "4 of 6" in ran.out
    found = json.loads((tmp_path / "out" / "receipt.json").read_text())["provenance"]["over_members"]["joint"]
    assert (found["combinations"], found["of"]) == (4, 6)
    assert run("verify", tmp_path / "out").code == 0


def test_a_member_that_cannot_be_a_report_is_named(tmp_path: Path) -> None:
    """The mean keeps to [0, 1]; one member does not, and its bill is none."""
    scores = logistic(SCORES) / 2
    scores[1, 0, 0] = 1.2
    run_pipeline(read_config(config(tmp_path, "unit", scores)), tmp_path / "out")
    _, receipt = documents(tmp_path / "out")
    said = receipt["provenance"]["over_members"]["unknown"]
    assert said.startswith("groups[0].reward: member 1: scores must be in [0, 1], got 1.2")
    assert run("verify", tmp_path / "out").code == 0


def test_a_run_without_ensembles_says_nothing_of_members(tmp_path: Path) -> None:
    document = json.loads(config(tmp_path, "unit", logistic(SCORES)).read_text())
    (tmp_path / "run.json").write_text(json.dumps({**document, "groups": document["groups"][2:]}))
    run_pipeline(read_config(tmp_path / "run.json"), tmp_path / "out")
    assert "over_members" not in json.loads((tmp_path / "out" / "receipt.json").read_text())["provenance"]
