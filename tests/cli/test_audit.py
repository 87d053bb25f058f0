"""The command ``audit``: the contract's keys, witnesses replayed from the JSON, exit codes, directories."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import rlhf_game as rg
from rlhf_game.files.build import build
from rlhf_game.files.games import read_game
from tests.cli.runner import run

GAMES = Path(__file__).resolve().parents[2] / "examples/games"
KEYS = {"name", "truthful_utility", "ir_margin", "regret_found", "regret_bound", "best_report"}


def audited(path: Path, *options: object) -> dict[str, Any]:
    done = run("audit", path, "--json", *options)
    assert done.code == 0, done.err
    assert done.err == ""
    return json.loads(done.out)


def written(folder: Path, name: str, **changes: object) -> Path:
    game = yaml.safe_load((GAMES / f"{name}.yaml").read_text(encoding="utf-8"))
    path = folder / "game.json"
    path.write_text(json.dumps(game | changes), encoding="utf-8")
    return path


def replayed(path: Path, said: dict[int, list[dict[str, Any]]]) -> tuple[np.ndarray, rg.Settlement, list[rg.Group]]:
    """Settle a game with the reports at some positions replaced (by one or several): values at the true rewards."""
    space, mechanism, groups = build(read_game(path))
    reports = []
    for at, group in enumerate(groups):
        if at in said:
            reports += [rg.Report(one["reward"], one["size"]) for one in said[at]]
        else:
            reports.append(rg.Report(group.reward, group.size))
    settlement = mechanism.settle(reports, space)
    return settlement.policy.values([space.read(group.reward) for group in groups]), settlement, groups


@pytest.mark.parametrize("payment", ["none", "affine"])
@pytest.mark.parametrize("name", ["table", "prompts", "l2", "menu", "affine_maximiser", "automaton"])
def test_witnesses_are_replayed_from_the_json(tmp_path: Path, name: str, payment: str) -> None:
    path = written(tmp_path, name, payment=payment)
    document = audited(path, "--starts", 12)
    assert {"payment", "groups", "domain", "starts", "seed"} <= document.keys()
    assert (document["payment"], document["starts"], document["seed"]) == (payment, 12, 0)
    values, settlement, groups = replayed(path, {})
    for at, group in enumerate(document["groups"]):
        assert group.keys() >= KEYS
        truthful = groups[at].size * values[at] - settlement.payments[at]
        assert group["truthful_utility"] == group["ir_margin"] == pytest.approx(truthful, rel=1e-13)
        lied, lie, _ = replayed(path, {at: [group["best_report"]]})
        gain = groups[at].size * lied[at] - lie.payments[at] - truthful
        assert group["best_gain"] == pytest.approx(gain, abs=1e-13)
        assert group["regret_found"] == (group["best_gain"] if group["best_gain"] > 1e-8 else 0)
        assert group["regret_bound"] == (0 if payment == "affine" else None)
        assert 1 <= group["best_report"]["size"] <= document["size_limit"]
    assert payment == "affine" or any(group["regret_found"] > 0.01 for group in document["groups"])


def test_joint_witnesses_are_replayed_from_the_json(tmp_path: Path) -> None:
    path = written(tmp_path, "table")
    document = audited(path, "--coalitions", "--false-names", "--starts", 8)
    values, settlement, groups = replayed(path, {})
    sizes = np.array([group.size for group in groups])
    (pair,) = document["coalitions"]
    assert pair["members"] == ["legal", "sales"]
    lied, lie, _ = replayed(path, {at: [report] for at, report in enumerate(pair["reports"])})
    truthful = sizes @ values - settlement.revenue
    assert pair["truthful_utility"] == pytest.approx(truthful)
    assert pair["gain"] == pytest.approx(sizes @ lied - lie.revenue - truthful)
    assert pair["gain"] > 0.1
    for at, split in enumerate(document["false_names"]):
        lied, lie, _ = replayed(path, {at: split["reports"]})
        names = len(split["reports"])
        gain = sizes[at] * lied[at] - lie.payments[at : at + names].sum() - settlement.utilities[at]
        assert split["gain"] == pytest.approx(gain)
        assert (split["gain"] > 0.1) == (sizes[at] > 1)
        assert sum(report["size"] for report in split["reports"]) == sizes[at]


def test_the_same_seed_gives_the_same_document(tmp_path: Path) -> None:
    path = written(tmp_path, "prompts", payment="none")
    one, two, other = (run("audit", path, "--json", "--seed", seed).out for seed in (3, 3, 4))
    assert one == two
    assert json.loads(other)["seed"] == 4


@pytest.mark.parametrize("payment", ["affine", "revenue"])
def test_assert_holds_with_payments(tmp_path: Path, payment: str) -> None:
    done = run("audit", written(tmp_path, "table", payment=payment), "--assert")
    assert (done.code, done.err) == (0, "")
    assert "by the bound" in done.out


def test_assert_fails_without_payments_and_says_who_gains_how_much(tmp_path: Path) -> None:
    path = written(tmp_path, "table", payment="none")
    done = run("audit", path, "--assert", "--json")
    assert done.code == 3
    found = {group["name"]: group["regret_found"] for group in json.loads(done.out)["groups"]}
    gainers = [name for name, gain in found.items() if gain > 0]
    assert gainers
    assert len(done.err.splitlines()) == len(gainers)
    for name, line in zip(gainers, done.err.splitlines(), strict=True):
        assert line.startswith(f"DSIC does not hold: {name!r} gains {found[name]:.9g}")
    assert run("audit", path).code == 0
    assert "a lie gains, so truth is not a best report" in run("audit", path).out


def test_assert_fails_when_a_truthful_group_loses(tmp_path: Path) -> None:
    groups = [{"name": "one", "size": 2, "reward": [-1, -0.5]}]
    path = tmp_path / "game.json"
    path.write_text(json.dumps({"reference": [0.5, 0.5], "strength": 1, "groups": groups}), encoding="utf-8")
    done = run("audit", path, "--assert")
    assert done.code == 3
    assert "IR does not hold: 'one' has -" in done.err


def test_nothing_found_is_not_called_a_proof(tmp_path: Path) -> None:
    groups = [{"name": "one", "size": 1, "reward": [0.5, 0.5]}]
    path = tmp_path / "game.json"
    game = {"reference": [0.5, 0.5], "strength": 1, "groups": groups, "payment": "none", "normalization": "sum"}
    path.write_text(json.dumps(game), encoding="utf-8")
    done = run("audit", path, "--assert")
    assert done.code == 0
    assert "no lie was found that gains; that is no proof" in done.out


def test_the_size_limit_of_the_game_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path, "table", payment="none", size_limit=3)
    document = audited(path)
    assert document["size_limit"] == 3
    assert all(group["best_report"]["size"] <= 3 for group in document["groups"])


def test_a_run_directory_is_audited_by_its_game(tmp_path: Path) -> None:
    path = written(tmp_path, "table")
    assert run("audit", tmp_path, "--json").out == run("audit", path, "--json").out
    (tmp_path / "empty").mkdir()
    done = run("audit", tmp_path / "empty")
    assert done.code == 2
    assert "game.json" in done.err


@pytest.mark.parametrize("payment", ["affine", "none"])
def test_of_a_trie_the_table_over_what_was_found_is_audited(tmp_path: Path, payment: str) -> None:
    groups = [
        {"name": "a", "size": 2, "reward": [[0.5, 0.4], [0.5, 0.4, 0.3], [0.1, 0.5]]},
        {"name": "b", "size": 3, "reward": [[0.1, 0.5], [0.2, 0.3, 0.5], [0.5, 0.2]]},
    ]
    whole = written(tmp_path, "prompts", payment=payment, normalization="none", groups=groups)
    said = audited(whole, "--starts", 4)
    prompts = len(json.loads(whole.read_text())["reference"])
    partial = written(
        tmp_path,
        "prompts",
        payment=payment,
        normalization="none",
        groups=groups,
        missing=[0.1] * prompts,
        bounds=[0, 0.5],
    )
    of_found = audited(partial, "--starts", 4)
    same = ("name", "truthful_utility", "ir_margin", "ir_bound", "regret_bound")
    assert [[group[key] for key in same] for group in of_found["groups"]] == [
        [group[key] for key in same] for group in said["groups"]
    ]
    loudest, of_whole = (
        max(max(row) for group in found["groups"] for row in group["best_report"]["reward"])
        for found in (of_found, said)
    )
    assert loudest <= 0.5  # what lies say is within the bounds, which the whole table has not
    assert payment == "affine" or of_whole > 0.8
    assert (said["outcomes"], of_found["outcomes"]) == ("all", "found")
    assert all(group["regret_bound"] == (0 if payment == "affine" else None) for group in of_found["groups"])
    shown = run("audit", partial, "--starts", 4).out
    assert "audited: the mechanism that runs, which is the one over the responses that were found." in shown


@pytest.mark.parametrize("options", [("--starts", 0), ("--seed", -1), ("--starts", "many")])
def test_wrong_options_are_input_errors(options: tuple[object, ...]) -> None:
    done = run("audit", GAMES / "table.yaml", *options)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1


def test_wrong_games_are_input_errors(tmp_path: Path) -> None:
    path = written(tmp_path, "table", strength=-1)
    done = run("audit", path)
    assert done.code == 2
    assert "strength" in done.err
    lines = tmp_path / "games.jsonl"
    lines.write_text("{}", encoding="utf-8")
    assert run("audit", lines).code == 2


def test_false_names_keep_the_members_and_a_fee_would_stop_them(tmp_path: Path) -> None:
    """The golden game of the theory: 3 members pay .322525 as one name, .148123 as 2 + 1 and .074968 as 1 + 1 + 1."""
    game = {
        "reference": [0.7, 0.2, 0.1], "strength": 0.5, "normalization": "sum",
        "groups": [
            {"name": "one", "size": 3, "reward": [0.6, 0.3, 0.1]},
            {"name": "two", "size": 2, "reward": [0.1, 0.2, 0.7]},
        ],
    }  # fmt: skip
    (tmp_path / "game.json").write_text(json.dumps(game))
    two, three = (
        json.loads(run("audit", tmp_path / "game.json", "--false-names", "--names", k, "--starts", "2", "--json").out)
        for k in ("2", "3")
    )
    one = two["groups"][0]["false_names"]
    assert (one["names"], one["sizes"]) == (2, [1, 2])
    assert one["gain"] >= 0.322525 - 0.148123 - 1e-6
    assert one["least_fee"] == one["gain"]
    more = three["groups"][0]["false_names"]
    assert (more["names"], more["sizes"]) == (3, [1, 1, 1])
    assert more["gain"] >= 0.322525 - 0.074968 - 1e-6
    assert more["least_fee"] == max(one["gain"], more["gain"] / 2)


def test_what_the_provider_could_gain_is_in_the_audit(tmp_path: Path) -> None:
    """The golden game of the theory: an invented group of at most 12 brings at least .73302 instead of .373756."""
    game = {
        "reference": [0.7, 0.2, 0.1], "strength": 0.5, "normalization": "sum", "size_limit": 12,
        "groups": [
            {"name": "one", "size": 3, "reward": [0.6, 0.3, 0.1]},
            {"name": "two", "size": 2, "reward": [0.1, 0.2, 0.7]},
        ],
    }  # fmt: skip
    (tmp_path / "game.json").write_text(json.dumps(game))
    found = run("audit", tmp_path / "game.json", "--provider", "--starts", "2", "--json")
    provider = json.loads(found.out)["provider"]
    assert provider["revenue"] == pytest.approx(0.373756102268)
    assert 0.73302 <= provider["by_kind"]["invented"] <= 0.733025
    assert provider["best_revenue"] == max(provider["by_kind"].values())
    assert provider["gain"] == pytest.approx(provider["best_revenue"] - provider["revenue"])
    witness = provider["witness"]
    (tmp_path / "again.json").write_text(json.dumps(game | {"strength": witness["strength"]}))
    receipt = json.loads(run("settle", tmp_path / "again.json", "--json").out)
    assert sum(group["payment"] for group in receipt["groups"]) == pytest.approx(provider["best_revenue"])
    assert "a search: at least that" in run("audit", tmp_path / "game.json", "--provider", "--starts", "2").out


def test_a_search_is_short_where_no_lie_can_gain_by_proof_and_long_where_asked(tmp_path: Path) -> None:
    assert audited(GAMES / "table.yaml")["starts"] == 8
    assert audited(GAMES / "table.yaml", "--starts", 5)["starts"] == 5
    assert audited(written(tmp_path, "table", payment="none"))["starts"] == 64
    assert "no lie can gain by proof; --starts 64 searches" in " ".join(run("audit", GAMES / "table.yaml").out.split())
    assert "by proof" not in run("audit", tmp_path / "game.json").out
