"""Games in every format, tables in files, and the hash of what a game says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf_game import (
    KL,
    AffinePayments,
    AffineWelfare,
    Alpha,
    InputError,
    Mechanism,
    NoPayments,
    Report,
    RevenueOptimal,
    SocialWelfare,
    SquaredL2,
)
from rlhf_game.files.build import build, settle, settle_without
from rlhf_game.files.games import read_game, read_games
from rlhf_game.mechanism.payments import PaymentRule
from rlhf_game.mechanism.spaces.base import PolicySpace
from rlhf_game.mechanism.spaces.chain import Chain
from rlhf_game.mechanism.spaces.menu import Menu
from rlhf_game.mechanism.spaces.table import Table

DOCUMENT: dict[str, Any] = {
    "reference": [0.5, 0.3, 0.2],
    "strength": 0.5,
    "groups": [{"name": "a", "size": 3, "reward": [1, 0, 0]}, {"name": "b", "size": 1, "reward": [0, 0.2, 0.8]}],
}
YAML = """
# the same, in another order and with every default said
groups:
  - {reward: [1.0, 0, 0.0], size: 3, name: a}
  - {reward: [0, .2, 8e-1], size: 1, name: "b"}
space: table
payment: affine
normalization: none
regularizer: kl
strength: 5.0e-1
reference: [0.5, 0.3, 0.2]
"""


def write(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def changed(field: str, value: Any) -> dict[str, Any]:
    return DOCUMENT | {field: value}


def test_yaml_json_and_lines_read_the_same_and_hash_the_same(tmp_path: Path) -> None:
    files = [write(tmp_path / "g.yaml", YAML), write(tmp_path / "g.yml", YAML), write(tmp_path / "g.json", DOCUMENT)]
    games = [read_game(file) for file in files]
    games += read_games(write(tmp_path / "g.jsonl", json.dumps(DOCUMENT) + "\n" + json.dumps(DOCUMENT)))
    assert len(games) == 5
    assert {game.sha256 for game in games} == {games[0].sha256}
    assert {settle(game).payments.tobytes() for game in games} == {settle(games[0]).payments.tobytes()}


def test_the_hash_is_the_documented_one(tmp_path: Path) -> None:
    import hashlib

    canonical = (
        '{"groups":[{"name":"a","reward":[1.0,0.0,0.0],"size":3},{"name":"b","reward":[0.0,0.2,0.8],"size":1}],'
        '"reference":[0.5,0.3,0.2],"strength":0.5}'
    )
    game = read_game(write(tmp_path / "g.json", DOCUMENT))
    assert game.sha256 == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strength", 0.50000001),
        ("reference", [0.5, 0.2, 0.3]),
        ("regularizer", "l2"),
        ("normalization", "sum"),
        ("payment", "none"),
        ("outcomes", ["x", "y", "z"]),
        ("weights", {"a": 2}),
        ("boosts", [0, 0, 1]),
        ("size_limit", 9),
        ("groups", DOCUMENT["groups"][::-1]),
        ("groups", [DOCUMENT["groups"][0] | {"name": "c"}, DOCUMENT["groups"][1]]),
    ],
)
def test_the_hash_changes_with_every_field(tmp_path: Path, field: str, value: Any) -> None:
    before = read_game(write(tmp_path / "g.json", DOCUMENT)).sha256
    assert read_game(write(tmp_path / "g.json", changed(field, value))).sha256 != before


def test_the_hash_changes_with_the_bytes_of_a_table_but_not_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    hashes = []
    for name, reward in (("r.npy", [1.0, 0, 0]), ("tables/s.npy", [1.0, 0, 0]), ("r.npy", [1.0, 0, 1e-300])):
        np.save(tmp_path / name, np.array(reward))
        group = DOCUMENT["groups"][0] | {"reward": {"file": name}}
        hashes.append(read_game(write(tmp_path / "g.json", changed("groups", [group]))).sha256)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("shape", ["one", "many", "ragged"])
def test_tables_in_files_are_the_tables_in_lists(tmp_path: Path, shape: str) -> None:
    rng = np.random.default_rng(3)
    widths = {"one": [4], "many": [3, 3], "ragged": [2, 5, 2]}[shape]
    q, r, s = ([rng.dirichlet(np.ones(m)) for m in widths] for _ in range(3))
    tables = {"q": q, "r": r, "s": s}
    lists = {
        name: rows[0].tolist() if shape == "one" else [row.tolist() for row in rows] for name, rows in tables.items()
    }
    column = pa.table(lists)
    pq.write_table(column, tmp_path / "t.parquet")
    named = {name: {"file": f"t.parquet:{name}"} for name in tables}
    if shape != "ragged":
        np.savez(tmp_path / "t.npz", **{name: np.array(rows) for name, rows in lists.items()})
        np.save(tmp_path / "r.npy", np.array(lists["r"]))
        named |= {"s": {"file": "t.npz:s"}, "r": {"file": "r.npy"}}

    def document(of: dict[str, Any]) -> dict[str, Any]:
        groups = [{"name": "a", "size": 2, "reward": of["r"]}, {"name": "b", "size": 1, "reward": of["s"]}]
        return {"reference": of["q"], "strength": 0.1, "groups": groups}

    by_lists = settle(read_game(write(tmp_path / "g.json", document(lists))))
    by_files = settle(read_game(write(tmp_path / "h.json", document(named))))
    assert by_lists.payments.tobytes() == by_files.payments.tobytes()
    direct = Mechanism(SocialWelfare(), AffinePayments()).settle(
        [Report(lists["r"], 2), Report(lists["s"])], Table(lists["q"], KL(0.1))
    )
    assert direct.payments.tobytes() == by_lists.payments.tobytes()


def test_an_npy_table_is_mapped_and_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.array([1.0, 0, 0]))
    group = DOCUMENT["groups"][0] | {"reward": {"file": "r.npy"}}
    game = read_game(write(tmp_path / "g.json", changed("groups", [group])))
    assert isinstance(game.rewards[0], np.memmap)
    assert not game.rewards[0].flags.writeable


def test_a_reference_typed_to_six_digits_is_accepted(tmp_path: Path) -> None:
    thirds = [0.333333, 0.333333, 0.333333]
    settlement = settle(read_game(write(tmp_path / "g.json", changed("reference", thirds))))
    assert settlement.policy.probabilities.sum() == pytest.approx(1, abs=1e-15)  # rounding of three terms


def test_regularizers_are_called_what_the_contract_calls_them(tmp_path: Path) -> None:
    for name in ("kl", "l2", "reverse_kl", "chi2", "js", "hellinger"):
        space, _, _ = build(read_game(write(tmp_path / "g.json", changed("regularizer", name))))
        assert isinstance(space, Table)
        assert (space.regularizer.name, space.regularizer.strength) == (name, 0.5)
    space, _, _ = build(read_game(write(tmp_path / "g.json", changed("regularizer", "alpha:-1.5"))))
    assert isinstance(space, Table)
    assert space.regularizer == Alpha(0.5, -1.5)


def test_weights_go_by_name_and_default_to_one(tmp_path: Path) -> None:
    _, mechanism, groups = build(read_game(write(tmp_path / "g.json", changed("weights", {"b": 2.5}))))
    assert mechanism.training.multipliers(2).tolist() == [1.0, 2.5]  # type: ignore[attr-defined]
    assert [group.name for group in groups] == ["a", "b"]


Q, BOTH = [0.5, 0.3, 0.2], [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]
GRID = [[[1, 0, 0.5], [0, 0, 0]], [[0, 0.2, 0.8], [1, 0, 1]]]
SPACES: list[tuple[dict[str, Any], PolicySpace[Any]]] = [
    ({"reference": Q, "strength": 2, "regularizer": "l2"}, Table(Q, SquaredL2(2.0))),
    (
        {"reference": BOTH, "strength": 0.5, "prompt_weights": [3, 1], "normalization": "none"},
        Table(BOTH, KL(0.5), prompt_weights=[0.75, 0.25]),
    ),
    ({"space": "menu", "divergence": [0, 1, 2], "strength": 0.1}, Menu([0, 1, 2], 0.1)),
    ({"space": "menu"}, Menu([0, 0, 0])),
    (
        {"space": "automaton", "next_state": [[0, 1, -1], [1, 0, -1]], "reference": BOTH, "strength": 0.5}
        | {"initial": 1, "horizon": 3},
        Chain([[0, 1, -1], [1, 0, -1]], BOTH, KL(0.5), initial=1, horizon=3),
    ),
]


@pytest.mark.parametrize(("document", "space"), SPACES, ids=["l2", "prompts", "menu", "free menu", "automaton"])
@pytest.mark.parametrize("is_affine", [False, True])
def test_a_game_is_the_space_and_the_mechanism_that_it_says(
    tmp_path: Path, document: dict[str, Any], space: PolicySpace[Any], is_affine: bool
) -> None:
    rewards: list[Any] = GRID if np.ndim(document.get("reference", [])) == 2 else [[1, 0, 0.5], [0, 0.2, 0.8]]
    boost = rewards[1]
    groups = [{"name": "a", "size": 3, "reward": rewards[0]}, {"name": "b", "size": 1, "reward": rewards[1]}]
    extra = {"weights": {"b": 2.5}, "boosts": boost} if is_affine else {}
    read = settle(read_game(write(tmp_path / "g.json", document | {"groups": groups} | extra)))
    training = AffineWelfare([1, 2.5], boost) if is_affine else SocialWelfare()
    reports = [Report(rewards[0], 3), Report(rewards[1])]
    direct = Mechanism(training, AffinePayments()).settle(reports, space)
    assert read.payments.tobytes() == direct.payments.tobytes()
    assert read.values.tobytes() == direct.values.tobytes()
    assert read.affine_social_welfare == direct.affine_social_welfare


@pytest.mark.parametrize(("name", "rule"), [("none", NoPayments()), ("revenue", RevenueOptimal())])
def test_payments_go_by_name(tmp_path: Path, name: str, rule: PaymentRule) -> None:
    document = DOCUMENT | {"payment": name, "normalization": "sum"}
    read = settle(read_game(write(tmp_path / "g.json", document)))
    reports = [Report(group["reward"], group["size"]) for group in DOCUMENT["groups"]]
    direct = Mechanism(SocialWelfare(), rule).settle(reports, Table(Q, KL(0.5), normalization="sum"))
    assert read.payments.tobytes() == direct.payments.tobytes()


@pytest.mark.parametrize(
    "training", ["social_welfare", "nash", "egalitarian", "equal_say", "median", "random_dictatorship"]
)
def test_the_value_without_a_group_is_its_value_in_the_game_that_it_left(tmp_path: Path, training: str) -> None:
    document = {**DOCUMENT, "training": training, "payment": "none"}
    _, values = settle_without(read_game(write(tmp_path / "g.json", document)))
    for i, (group, value) in enumerate(zip(DOCUMENT["groups"], values, strict=True)):
        others = [other for j, other in enumerate(DOCUMENT["groups"]) if j != i]
        policy = settle(read_game(write(tmp_path / "g.json", {**document, "groups": others}))).policy
        assert value == pytest.approx(float(policy.probabilities @ group["reward"]), rel=1e-12)  # type: ignore[attr-defined]


def test_a_list_of_games_is_not_one_game(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"g\.jsonl: must hold one game"):
        read_game(write(tmp_path / "g.jsonl", DOCUMENT))
