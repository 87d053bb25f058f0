"""A part of one's own for each role, each in one file of a folder outside the package, used from everywhere.

The files are those that CONTRIBUTING.md shows. What they say is compared with parts of the package that do the same.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.mechanism import settle_games
from rlhf_game.registry import find
from rlhf_game.simulations.simulation_pipeline import simulate
from rlhf_game.simulations.study import Study, read_study
from tests.cli.runner import run
from tests.simulations.studies import MARKET, Interrupted, rows, study

PAGE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
GROUPS = [{"name": "a", "size": 3, "reward": [1.0, 0.0, 0.0]}, {"name": "b", "size": 1, "reward": [0.0, 0.25, 0.75]}]
GAME = {"reference": [0.5, 0.3, 0.2], "strength": 0.5, "groups": GROUPS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def settled(folder: Path, *, trusted: bool = True, **changes: Any) -> dict[str, Any]:
    path = folder / "game.json"
    path.write_text(json.dumps({key: value for key, value in (GAME | changes).items() if value is not None}))
    done = run("settle", path, "--json", *(["--trust-code"] if trusted else []))
    assert done.code == 0, done.err
    return json.loads(done.out)


def audited(folder: Path, *options: str) -> dict[str, Any]:
    done = run("audit", folder / "game.json", "--json", "--starts", 2, "--trust-code", *options)
    assert done.code == 0, done.err
    return json.loads(done.out)


def numbers(receipt: dict[str, Any], key: str) -> list[float]:
    return [group[key] for group in receipt["groups"]]


def truths() -> list[rg.Group]:
    return [rg.Group(group["name"], group["reward"], group["size"]) for group in GROUPS]


def test_the_page_shows_one_file_for_each_role() -> None:
    assert set(FILES) == {"huber.py", "half.py", "shrunk.py", "deck.py", "spite.py", "fans.py", "letters.py"}


def test_a_regularizer(folder: Path) -> None:
    """The file's divergence is chi-squared, so everything is known; what is numerical has a looser tolerance."""
    known = settled(folder, regularizer="chi2", trusted=False)
    own = settled(folder, regularizer={"kind": "huber.py:Chi"})
    np.testing.assert_allclose(own["policy"], known["policy"], atol=1e-10)
    np.testing.assert_allclose(numbers(own, "payment"), numbers(known, "payment"), atol=1e-10)
    _check_numerical(audited(folder))
    settled(folder, regularizer={"kind": "huber.py:Chi"}, normalization="sum", payment="revenue")
    part = find("regularizer", "huber.py:Chi", folder)
    table = rg.Table(GAME["reference"], part(0.5), normalization="sum")
    exact = rg.Table(GAME["reference"], rg.PearsonChi2(0.5), normalization="sum")
    for payment in (rg.AffinePayments(), rg.RevenueOptimal()):
        mine, theirs = (rg.Mechanism(rg.SocialWelfare(), payment).settle(truths(), one) for one in (table, exact))
        assert (mine.payments <= theirs.payments + 1e-9).all()  # never more than the infimum
        np.testing.assert_allclose(mine.payments, theirs.payments, atol=1e-4)
    with pytest.raises(rg.CombinationError, match="must say its divergence, and either its argmax or its conjugate"):
        type("Nothing", (rg.Regularizer,), {})


def _check_numerical(audit: dict[str, Any]) -> None:
    """What is found numerically is no proof, and leaves nothing to gain."""
    assert [group["regret_bound"] for group in audit["groups"]] == [None, None]
    assert max(group["best_gain"] for group in audit["groups"]) < 1e-9


@pytest.mark.slow  # each of some thirty settlements minimises each group's least gain numerically
def test_entry_fees_under_a_regularizer_leave_nothing_to_gain(folder: Path) -> None:
    settled(folder, regularizer={"kind": "huber.py:Chi"}, normalization="sum", payment="revenue")
    _check_numerical(audited(folder))


def test_a_conjugate_is_enough(folder: Path) -> None:
    table = rg.Table(GAME["reference"], find("regularizer", "huber.py:Entropy", folder)(0.5))
    exact = rg.Table(GAME["reference"], rg.KL(0.5))
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    mine, theirs = (mechanism.settle(truths(), one) for one in (table, exact))
    np.testing.assert_allclose(mine.policy.probabilities, theirs.policy.probabilities, atol=1e-8)
    np.testing.assert_allclose(mine.payments, theirs.payments, atol=1e-8)


def test_a_payment_rule(folder: Path) -> None:
    whole = numbers(settled(folder, trusted=False), "payment")
    own = settled(folder, payment="half.py:Half")
    np.testing.assert_allclose(numbers(own, "payment"), np.array(whole) / 2, rtol=1e-15)
    assert [group["regret_bound"] for group in audited(folder)["groups"]] == [None, None]
    settlement = rg.Mechanism(rg.SocialWelfare(), find("payment", "half.py:Half", folder)()).settle(
        truths(), rg.Table(GAME["reference"], rg.KL(0.5))
    )
    np.testing.assert_allclose(settlement.payments, numbers(own, "payment"), rtol=1e-15)
    regrets = rg.audit(settlement, strategies=[rg.Resize(2.0), rg.Polarize(4.0)])
    assert any(regret.is_refuted for regret in regrets)


def test_a_training_rule(folder: Path) -> None:
    known = settled(folder, weights={"a": 3**-0.5, "b": 1.0}, trusted=False)
    own = settled(folder, training={"rule": "shrunk.py:Shrunk", "power": 0.5}, payment="none")
    np.testing.assert_allclose(own["policy"], known["policy"], rtol=1e-12)
    assert all(group["regret_found"] > 0.01 for group in audited(folder)["groups"])
    done = run("settle", folder / "game.json", "--trust-code")
    assert done.code == 0
    with pytest.raises(rg.CombinationError, match="AffinePayments pays for AffineRule, not Shrunk"):
        rg.Mechanism(find("training", "shrunk.py:Shrunk", folder)(), rg.AffinePayments())


def test_a_space(folder: Path) -> None:
    """The file's space is a table with KL, so everything is known."""
    own = settled(folder, space={"kind": "deck.py:Deck", "cards": [0.5, 0.3, 0.2]}, reference=None)
    bill = run("receipt", folder / "game.json", "--for", "a", "-o", folder / "own.json", "--trust-code")
    assert bill.code == 2
    assert "space: must be a table or an automaton" in bill.err
    known = settled(folder, trusted=False)
    for key in ("value", "payment", "utility"):
        np.testing.assert_allclose(numbers(own, key), numbers(known, key), atol=1e-12)
    np.testing.assert_allclose(own["policy"], known["policy"], rtol=1e-12)
    settled(folder, space={"kind": "deck.py:Deck", "cards": [0.5, 0.3, 0.2]}, reference=None, payment="none")
    free = audited(folder)["groups"]
    known = settled(folder, trusted=False, payment="none")
    for mine, theirs in zip(free, audited(folder)["groups"], strict=True):
        assert mine["regret_found"] >= 0.98 * theirs["regret_found"] > 0.01
    deck = find("space", "deck.py:Deck", folder)([0.5, 0.3, 0.2], 0.5)
    regrets = rg.audit(rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(truths(), deck))
    assert not any(regret.is_refuted for regret in regrets)
    assert all(regret.bound is None for regret in regrets)
    with pytest.raises(rg.CombinationError, match="a least gain needs a space with a declared domain, not Deck"):
        rg.Mechanism(rg.SocialWelfare(), rg.RevenueOptimal()).settle(truths(), deck)


def test_many_games_on_a_space_are_each_game(folder: Path) -> None:
    rng, deck = np.random.default_rng(0), find("space", "deck.py:Deck", folder)([0.5, 0.3, 0.2], 0.5)
    rewards, sizes = rng.random((5, 3, 3)), rng.integers(1, 5, (5, 3))
    for payment in (rg.AffinePayments(), rg.NoPayments()):
        mechanism = rg.Mechanism(rg.SocialWelfare(), payment)
        many = settle_games(mechanism, rewards, sizes, deck.many(5))
        for b, (said, members) in enumerate(zip(rewards, sizes.tolist(), strict=True)):
            one = mechanism.settle(list(map(rg.Report, said, members)), deck)
            for name in ("payments", "values", "utilities", "social_welfare", "affine_social_welfare"):
                np.testing.assert_array_equal(getattr(many, name)[b], getattr(one, name))


DECK: dict[str, Any] = {"space": {"kind": "deck.py:Deck", "cards": [0.5, 0.3, 0.2]}}
ON_DECK: dict[str, Any] = {
    "games": 6,
    "chunk": 2,
    "scenario": {"kind": "run", "game": "game.json", "sizes": [1, 4]},
    "strength": 0.5,
    "normalization": "none",
    "strategies": [{"kind": "polarize"}, {"kind": "spite.py:Spite", "anger": 2.0}],
    "keep": "rewards",
}


@pytest.fixture
def games(folder: Path) -> Path:
    """A folder with the game, whose table is the deck, and the same wishes on another reference, which decks ignore."""
    settled(folder, reference=[0.0, 0.4, 0.6], trusted=False)
    (folder / "game.json").rename(folder / "other.json")
    settled(folder, trusted=False)
    return folder


def on_deck_and_table(base: Path, of: dict[str, Any], **changes: Any) -> tuple[Study, dict[str, np.ndarray]]:
    scenario = {**ON_DECK["scenario"], "game": "other.json"}
    on_deck, on_table = {**of, **changes, **DECK, "scenario": scenario}, {**of, **changes}
    return study(on_deck, of={}, base=base), rows(study(on_table, of={}, base=base))


def test_a_space_in_a_study(folder: Path, games: Path) -> None:
    """The deck is the table of the game, so everything is known."""
    on_deck, known = on_deck_and_table(games, ON_DECK)
    found = rows(on_deck)
    assert known.keys() - found.keys() == {"reference"}
    assert (known["payment_0"][known["payment"] == "affine"] > 0.01).all()
    assert np.abs(known["gain"]).max() > 0.1
    for name, column in found.items():
        if column.dtype == np.float64:
            np.testing.assert_allclose(column, known[name], rtol=1e-9, atol=1e-14, err_msg=name)
        elif name != "error":
            assert (column == known[name]).all()
    (folder / "study.json").write_text(json.dumps(on_deck.fields.model_dump(exclude_none=True)))
    with pytest.raises(KeyboardInterrupt):
        simulate(on_deck, folder / "cut", Interrupted(1))
    for out in ("cut", "whole"):
        done = run("simulate", folder / "study.json", "-o", folder / out, "--json", "--engine", "serial")
        assert done.code == 0, done.err
    assert (folder / "cut/study.json").read_bytes() == (folder / "whole/study.json").read_bytes()
    assert (folder / "cut/report.html").exists()
    assert "(--trust-code lets it)" in run("verify", folder / "cut").err
    assert run("verify", folder / "cut", "--trust-code", "--replay", 2).code == 0
    _check_replay(folder, found)
    (folder / "deck.py").write_text(FILES["deck.py"] + "\n# another file\n")
    assert run("simulate", folder / "study.json", "-o", folder / "whole").code == 2
    assert run("verify", folder / "whole", "--trust-code").code != 0


def _check_replay(folder: Path, found: dict[str, np.ndarray]) -> None:
    """A game of the study is a game on the same space, wherever it is written."""
    (folder / "there").mkdir()
    game = folder / "there/game.json"
    replay = ("simulate", "--replay", folder / "cut", "--game", 4, "-o", game)
    assert run(*replay).code == 2
    assert run(*replay, "--trust-code").code == 0
    assert json.loads(game.read_text())["space"] == {**DECK["space"], "kind": "../deck.py:Deck"}
    done = run("settle", game, "--json", "--trust-code")
    assert done.code == 0, done.err
    at = (found["game"] == 4) & (found["strategy"] == "truthful") & (found["payment"] == "affine")
    np.testing.assert_allclose(numbers(json.loads(done.out), "payment"), found["payment_i"][at][0], rtol=1e-12)
    assert read_study(folder / "cut").game(4).fields.space == DECK["space"]


def test_lies_on_a_space_in_a_study_are_searched_for_on_the_space(games: Path) -> None:
    lies = [{"kind": "best_response", "starts": 2}, {"kind": "coalition", "starts": 2, "steps": 5}]
    on_deck, known = on_deck_and_table(games, ON_DECK, games=1, payments=["none"], strategies=lies)
    gains = rows(on_deck)["gain"][1:]
    assert (gains > 0.01).all()
    assert (gains >= 0.98 * known["gain"][1:]).all()


def test_a_space_in_a_market(games: Path) -> None:
    shared = {key: ON_DECK[key] for key in ("scenario", "normalization")}
    on_deck, known = on_deck_and_table(games, MARKET, games=2, rounds=3, **shared)
    assert known["payment_i"].max() > 0.01
    found = rows(on_deck)
    for name in ("value_i", "payment_i", "mixture_i", "efficiency"):
        np.testing.assert_allclose(found[name], known[name], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regularizer": "l2"}, "study.yaml: regularizer: must be left out with a space, which has its own, found l2"),
        ({"space": "table"}, "study.yaml: space: must be path/to/file.py:Name or package.module:Name, found the text"),
        ({"space": {"kind": "deck.py:Deck", "card": [1.0]}}, "space.card: must be one of the keys cards; found"),
        ({"space": {"kind": "deck.py:Deck", "cards": [0.5, 0.5]}}, "payment affine, found ValueError: operands"),
        ({"payments": ["revenue"], "normalization": "sum"}, "payment revenue, found CombinationError: a least gain"),
        ({"training": "nash", "payments": ["none"]}, "found CombinationError: NashWelfare needs a Table, not Deck"),
        ({"kind": "equilibrium", "beginnings": 1}, "payments: must be .* on tables, .* found a space"),
        ({"kind": "market", "reference": "last"}, "reference: must be first unless games are on tables"),
        ({"kind": "market", "reserve": 0.1}, "reserve: must come with tables, .* found a space"),
        ({"kind": "market", "learning": {"kind": "best_response", "over": "reports"}}, "learning.over: .* a space"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_space_cannot_do_in_a_study_is_refused_before_it_is_played(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    scenario = {"kind": "random", "groups": 2, "outcomes": 3}
    of = {"games": 2, "scenario": scenario, "strength": 0.5, **DECK}
    more = {"games": {"strategies": [{"kind": "polarize"}]}, "market": {"rounds": 2, "learning": MARKET["learning"]}}
    with pytest.raises(rg.InputError, match=message):
        study({**more.get(changes.get("kind", "games"), {}), **changes}, of, folder)


def test_a_strategy(folder: Path) -> None:
    settled(folder, payment="none", trusted=False)
    audit = audited(folder, "--strategy", str(folder / "spite.py:Spite"))
    assert any(name.startswith("Spite") for name in audit["groups"][0]["gains"])
    spite = find("strategy", "spite.py:Spite", folder)(anger=2.0)
    table = rg.Table(GAME["reference"], rg.KL(0.5))
    regrets = rg.audit(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), truths(), table, [spite])
    assert regrets[0].best.strategy == "Spite(anger=2.0)"


def test_a_scenario(folder: Path) -> None:
    """In Python it is a class that draws, in an audit the prior of the others' reports, and it plays in studies."""
    fans = find("scenario", "fans.py:Fans", folder)(kind="fans.py:Fans", groups=2, outcomes=3, loyalty=3.0)
    drawn = fans.draw(np.random.default_rng(0), rg.Normalization.SUM)
    cubed = np.random.default_rng(0).random((2, 3)) ** 3
    np.testing.assert_allclose(drawn.rewards, cubed / cubed.sum(axis=1, keepdims=True), rtol=1e-12)
    (folder / "prior.json").write_text(json.dumps({"kind": "fans.py:Fans", "groups": 2, "outcomes": 3}))
    settled(folder, payment="half.py:Half", normalization="sum")
    found = audited(folder, "--prior", str(folder / "prior.json"), "--samples", "4")["groups"]
    assert all(group["interim_regret"]["high"] > 0 for group in found)


def test_a_kind_of_training(folder: Path) -> None:
    path = folder / "training.json"
    path.write_text(json.dumps({"kind": "letters.py:Letters", "words": ["one", "three"]}))
    done = run("train", path, "-o", folder / "trained")
    assert done.code == 0, done.err
    assert json.loads((folder / "trained/metrics.json").read_text())["letters"] == 8
    assert "8" in done.out
    path.write_text(json.dumps({"kind": "letters.py:Letters", "word": ["one"]}))
    done = run("train", path, "-o", folder / "other")
    assert done.code == 2
    assert "word" in done.err


def run_of(folder: Path, **changes: Any) -> Path:
    """The configuration of a run of the same game: its rewards are columns of rows, which are its outcomes."""
    rows = [
        {"prompt": "?", "response": str(k), "count": count, "a": GROUPS[0]["reward"][k], "b": GROUPS[1]["reward"][k]}
        for k, count in enumerate((5, 3, 2))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = [{**group, "reward": {"column": group["name"]}} for group in GROUPS]
    path = folder / "run.json"
    outcomes = {"kind": "given", "file": "rows.jsonl"}
    path.write_text(json.dumps({"strength": GAME["strength"], "groups": groups, "outcomes": outcomes} | changes))
    return path


def ran(path: Path, out: Path) -> dict[str, Any]:
    done = run("run", path, "-o", out, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize(
    "parts",
    [
        {"payment": "half.py:Half"},
        pytest.param({"payment": "half.py:Half", "regularizer": "huber.py:Chi"}, marks=pytest.mark.slow),
    ],
)
def test_all_of_them_in_a_run(folder: Path, parts: dict[str, Any]) -> None:
    """A run settles, resumes, and is refused when a file is another; its code runs for others on trust."""
    known, out = settled(folder, **parts), folder / "out"
    path = run_of(folder, **parts)
    receipt = ran(path, out)
    for key in ("value", "payment", "utility"):
        np.testing.assert_allclose(numbers(receipt, key), numbers(known, key), rtol=1e-12)
    assert ran(path, out) == receipt
    for command in ("verify", "audit", "report"):
        refused = run(command, out)
        assert (refused.code, "--trust-code" in refused.err) == (2, True)
    assert run("verify", out, "--trust-code").code == 0
    (folder / "half.py").write_text(FILES["half.py"].replace("/ 2", "/ 4"))
    assert run("run", path, "-o", out).code == 2
    assert run("verify", out, "--trust-code").code != 0
    shrunk = ran(run_of(folder, training={"rule": "shrunk.py:Shrunk", "power": 0.5}, payment="none"), folder / "other")
    whole = settled(folder, weights={"a": 3**-0.5, "b": 1.0}, trusted=False)
    np.testing.assert_allclose(shrunk["policy"][0], whole["policy"], rtol=1e-12)


@pytest.mark.parametrize(
    ("training", "payment"),
    [
        *(
            pytest.param(rule, "none", marks=pytest.mark.slow)  # their pages train many times
            for rule in ("nash", "egalitarian", {"rule": "alpha_fair", "alpha": 2.0})
        ),
        ("equal_say", "none"), ("median", "none"),
        ({"rule": "learned", "profiles": [[[1.0, 0.0, 0.0], [0.0, 0.2, 0.8]]]}, "affine"),
        ({"rule": "stopped", "steps": 5}, {"kind": "stopped", "steps": 3}),
        ({"rule": "stopped", "steps": 5}, "checkpoints"),
    ],
)  # fmt: skip
def test_every_rule_of_a_game_file_is_the_same_in_a_run(tmp_path: Path, training: Any, payment: Any) -> None:
    rules = {"training": training, "payment": payment}
    known, out = settled(tmp_path, **rules), tmp_path / "out"
    receipt = ran(run_of(tmp_path, **rules), out)
    for key in ("value", "payment"):
        np.testing.assert_allclose(numbers(receipt, key), numbers(known, key), rtol=1e-6, atol=1e-9)
    assert run("verify", out).code == 0


def test_all_of_them_in_a_study(folder: Path) -> None:
    study = {
        "games": 8,
        "scenario": {"kind": "fans.py:Fans", "groups": 2, "outcomes": 3, "loyalty": 2.0},
        "regularizer": "huber.py:Chi",
        "strength": 0.5,
        "training": {"rule": "shrunk.py:Shrunk", "power": 0.5},
        "payments": ["none"],
        "strategies": [{"kind": "spite.py:Spite", "anger": 2.0}, {"kind": "polarize"}],
    }
    path = folder / "study.json"
    paid = {
        **study,
        "games": 2,
        "regularizer": "kl",
        "training": "social_welfare",
        "payments": ["half.py:Half", "affine"],
    }
    path.write_text(json.dumps(paid))
    done = run("simulate", path, "-o", folder / "paid", "--json", "--engine", "serial")
    assert done.code == 0, done.err
    half, whole = (one["measures"]["revenue"]["estimate"] for one in json.loads(done.out)["summaries"][:2])
    assert half == pytest.approx(whole / 2, rel=1e-12)
    path.write_text(json.dumps(study))
    done = run("simulate", path, "-o", folder / "one", "--json", "--engine", "serial")
    assert done.code == 0, done.err
    assert "(--trust-code lets it)" in run("verify", folder / "one").err
    assert run("verify", folder / "one", "--trust-code").code == 0
    spread = run("simulate", path, "-o", folder / "two", "--json", "--engine", "local", "--workers", 2)
    assert spread.code == 0, spread.err
    assert json.loads(spread.out)["summaries"] == json.loads(done.out)["summaries"]
    (folder / "fans.py").write_text(FILES["fans.py"] + "\n# another file\n")
    again = run("simulate", path, "-o", folder / "one")
    assert again.code == 2  # its source is part of the study
