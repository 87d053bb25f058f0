"""Studies of single games: published numbers, and what theory says of payments, each with its negative control."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.errors import InputError
from tests.simulations.studies import means, played, rows, study

# Table 1 of arXiv:2405.16276v4, appendix F: epsilon, 100 * change of the value, 10^4 * change of the utility
PUBLISHED = [(0.002, 0.2096, -0.4135), (0.01, 0.8667, -8.1557), (0.1, 1.8154, -55.8977)]


@pytest.mark.parametrize(("epsilon", "value", "utility"), PUBLISHED)
def test_the_published_gains_and_losses_of_thm_3_3_are_found(epsilon: float, value: float, utility: float) -> None:
    made = study(
        {
            "games": 8000,
            "chunk": 4000,
            "scenario": {"kind": "random", "tastes_of": "uniform", "groups": 3, "outcomes": 10, "sizes": [1, 10]},
            "strength": 0.2,
            "strategies": [{"kind": "raise_and_lower", "epsilon": epsilon}],
            "liars": "first",
        }
    )
    found = rows(made)
    lies = found["strategy"] != "truthful"
    for payment, published in (("none", value / 1e2), ("affine", utility / 1e4)):
        gains = found["gain_i"][lies & (found["payment"] == payment)][:, 0]
        error = gains.std() / np.sqrt(len(gains))
        assert abs(gains.mean() - published) < 4 * error + 0.003 * abs(published)  # it matches to 0.3 % itself
        assert error < 0.05 * abs(published)


STRATEGIES: list[dict[str, Any]] = [
    {"kind": "polarize"},
    {"kind": "raise_and_lower", "epsilon": 0.02},
    {"kind": "indifferent"},
    {"kind": "noisy", "scale": 0.3},
    {"kind": "resize", "factor": 3.0},
    {"kind": "absent"},
    {"kind": "best_response", "steps": 20},
]


@pytest.mark.parametrize("regularizer", ["kl", "l2"])
def test_no_lie_gains_with_payments_and_some_do_without(tmp_path: Path, regularizer: str) -> None:
    changes = {"strategies": STRATEGIES, "payments": ["affine", "revenue", "none"], "regularizer": regularizer}
    summary = played(tmp_path, changes)
    regret = means(summary, "regret")
    assert summary["failed"] == 0
    for label in summary["strategies"]:
        assert regret[label, "affine"] == 0
        assert regret[label, "revenue"] == 0
    for label in summary["strategies"]:
        if label.startswith(("polarize", "raise", "resize", "best")):
            assert regret[label, "none"] > 1e-4
    best = next(label for label in summary["strategies"] if label.startswith("best"))
    assert regret[best, "none"] >= max(regret[label, "none"] for label in summary["strategies"]) - 1e-9


def test_nobody_loses_by_taking_part_and_revenue_optimal_payments_bring_more() -> None:
    found = rows(study({"payments": ["affine", "revenue", "none"]}))
    honest = found["strategy"] == "truthful"
    assert (found["utility_i"][honest] >= -1e-12).all()
    by_rule = {rule: found["revenue"][honest & (found["payment"] == rule)] for rule in ("affine", "revenue", "none")}
    assert (by_rule["revenue"] > by_rule["affine"]).all()
    assert not by_rule["none"].any()


def test_coalitions_and_false_names_gain_against_payments(tmp_path: Path) -> None:
    lies = [{"kind": "coalition", "steps": 20}, {"kind": "false_names"}, {"kind": "best_response", "steps": 20}]
    regret = means(played(tmp_path, {"strategies": lies, "payments": ["affine"]}), "regret")
    by_kind = {label.partition("(")[0]: value for (label, _), value in regret.items()}
    assert by_kind["coalition"] > 1e-3
    assert by_kind["false_names"] > 1e-3
    assert by_kind["best_response"] == 0


def test_revenue_can_fall_when_a_group_joins_though_welfare_rises() -> None:
    """Revenue is not monotone (Conitzer and Sandholm); without payments there is nothing to fall."""
    found = rows(study({"strategies": [{"kind": "absent"}], "liars": "first", "games": 200}))
    gone = found["strategy"] == "absent"
    for payment in ("affine", "none"):
        here = found["payment"] == payment
        more = found["revenue"][gone & here] - found["revenue"][~gone & here]
        assert (found["affine_welfare"][gone & here] < found["affine_welfare"][~gone & here]).all()
        if payment == "affine":
            assert 0.02 < (more > 1e-6).mean() < 0.5
        else:
            assert not more.any()


def test_one_liar_in_turn_is_one_liar_at_a_time() -> None:
    turns = rows(study({"strategies": [{"kind": "polarize"}], "payments": ["affine"]}))
    alone = rows(study({"strategies": [{"kind": "polarize"}], "payments": ["affine"], "liars": "first"}))
    lies = turns["strategy"] != "truthful"
    np.testing.assert_allclose(turns["gain_i"][lies][:, 0], alone["gain_i"][lies][:, 0], rtol=1e-9)
    np.testing.assert_allclose(turns["payment_i"][lies][:, 0], alone["payment_i"][lies][:, 0], rtol=1e-9)
    assert (np.abs(alone["gain_i"][lies][:, 1]) > 0).all()  # what the lie did to a bystander
    assert alone["lies_i"][lies].tolist() == [[True, False, False]] * 40


ALL_LIES: list[dict[str, Any]] = [
    {"kind": "polarize"}, {"kind": "absent"}, {"kind": "false_names", "names": 3}, {"kind": "coalition", "steps": 5},
]  # fmt: skip


@pytest.mark.parametrize("liars", ["each", "first", "all", 0.4])
def test_a_gain_is_that_of_the_liars_and_a_loss_that_of_the_others(liars: Any) -> None:
    """By the utilities alone: mean over the liars, the sum over a coalition, the victims' losses, the largest gain."""
    found = rows(study({"strategies": ALL_LIES, "liars": liars}))
    per_game = len(found["game"]) // 40
    keys = list(zip(found["game"], found["payment"], found["strategy"], strict=True))
    honest = {
        (game, rule): u for (game, rule, lie), u in zip(keys, found["utility_i"], strict=True) if lie == "truthful"
    }
    assert per_game == 2 * 5
    for k in range(len(found["game"])):
        moved = found["utility_i"][k] - honest[found["game"][k], found["payment"][k]]
        lies, kind = found["lies_i"][k], found["strategy"][k].partition("(")[0]
        is_turns = liars == "each" and kind in ("polarize", "absent", "false_names")
        np.testing.assert_allclose(found["gain_i"][k], moved, atol=1e-9)
        if kind == "truthful":
            assert (found["liars"][k], found["gain"][k], found["regret"][k]) == (0, 0, 0)
            continue
        assert found["liars"][k] == (1 if is_turns else lies.sum())
        if kind == "coalition":
            assert lies.tolist() == [True, True, False]
            assert found["gain"][k] == pytest.approx(moved[:2].sum(), abs=1e-9)
            assert found["regret"][k] == pytest.approx(max(0.0, moved[:2].sum()), abs=1e-9)
        elif lies.any():
            assert found["gain"][k] == pytest.approx(moved[lies].mean(), abs=1e-9)
            assert found["regret"][k] == pytest.approx(max(0.0, moved[lies].max()), abs=1e-9)
        else:
            assert found["gain"][k] is None
            assert found["regret"][k] == 0
        if not is_turns:
            assert found["victims_loss"][k] == pytest.approx(-moved[~lies].sum(), abs=1e-9)


def test_a_pair_that_gains_is_not_charged_for_its_victim() -> None:
    found = rows(study({"strategies": [{"kind": "coalition", "steps": 20}], "payments": ["none"]}))
    pair = found["strategy"] != "truthful"
    assert found["gain"][pair].astype(float).mean() > 0.1 > found["gain_i"][pair].mean()
    assert (found["victims_loss"][pair] > 0).mean() > 0.6


def test_false_names_share_out_the_size_and_nothing_else_changes_without_payments() -> None:
    lies = [{"kind": "false_names", "names": names} for names in (2, 3, 7)]
    found = rows(study({"strategies": lies, "scenario": {"kind": "random", "sizes": [1, 9]}}))
    split = found["strategy"] != "truthful"
    np.testing.assert_array_equal(found["claim_i"][split], found["size_i"][split])
    free = split & (found["payment"] == "none")
    assert not found["gain_i"][free].any()
    assert not found["regret"][free].any()
    assert not found["victims_loss"][free].any()
    assert (found["gain"][split & ~free] >= 0).all()
    assert (found["gain"][split & ~free] > 1e-3).sum() > 60


def test_a_strategy_that_a_game_cannot_play_is_absent_there_and_harms_no_other_row() -> None:
    lies = [{"kind": "polarize"}, {"kind": "coalition", "members": 3, "steps": 2}]
    made = study({"strategies": lies, "games": 5, "sweep": {"scenario.groups": [2, 3]}})
    few, many = rows(made, 0), rows(made, 1)
    assert {s.partition("(")[0] for s in few["strategy"]} == {"truthful", "polarize"}
    assert {s.partition("(")[0] for s in many["strategy"]} == {"truthful", "polarize", "coalition"}
    assert not any(few["error"])
    alone = rows(study({"strategies": lies[:1], "games": 5, "sweep": {"scenario.groups": [2, 3]}}), 0)
    np.testing.assert_array_equal(few["welfare"], alone["welfare"])
    with pytest.raises(InputError, match="strategies: must be such as .* needs 3 groups where there are 2"):
        study({"strategies": lies, "scenario": {"kind": "random", "groups": 2}})


@pytest.mark.parametrize("payment", ["affine", "none"])
def test_a_best_response_knows_what_the_mechanism_hears(payment: str) -> None:
    """Heard with an error, the truth is beaten by the report that undoes it (Thm 4.9: by no more than 2 w eps)."""
    best = {"strategies": [{"kind": "best_response", "steps": 60}], "payments": [payment], "noise": 0.05}
    found = rows(study(best))
    lies = found["strategy"] != "truthful"
    gains, sizes = found["gain_i"][lies], found["size_i"][lies]
    assert (gains >= -1e-9).all()
    assert (gains > 1e-6).mean() > 0.9
    if payment == "affine":
        assert (gains <= 2 * 0.05 * sizes).all()
    keen = rows(study({**best, "strategies": [{"kind": "polarize"}, {"kind": "raise_and_lower", "epsilon": 0.01}]}))
    others = keen["strategy"] != "truthful"
    for lie in set(keen["strategy"][others]):
        at = keen["strategy"] == lie
        assert (gains >= keen["gain_i"][at] - 1e-3).mean() > 0.95


def test_what_is_kept_of_a_game_is_the_game() -> None:
    found = rows(study({"games": 6, "keep": "rewards"}))
    assert found["reference"].shape == (36, 6)
    assert found["reward_i"].shape == (36, 3, 6)
    honest = found["strategy"] == "truthful"
    for k in np.flatnonzero(honest & (found["payment"] == "affine")):
        space = rg.Table(found["reference"][k], rg.KL(0.5), normalization="sum")
        reports = [rg.Report(r, int(w)) for r, w in zip(found["reward_i"][k], found["size_i"][k], strict=True)]
        settled = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(reports, space)
        np.testing.assert_allclose(found["payment_i"][k], settled.payments, rtol=1e-9)
        np.testing.assert_allclose(found["value_i"][k], settled.values, rtol=1e-9)


def test_in_a_mix_each_group_lies_with_its_probability() -> None:
    def lost(liars: Any) -> Any:
        found = rows(study({"strategies": [{"kind": "polarize"}], "liars": liars, "games": 400}))
        return found["loss"][(found["strategy"] != "truthful") & (found["payment"] == "none")]

    assert (lost(0.0) <= 1e-13).all()
    honest = (lost(0.3) <= 1e-13).mean()
    assert abs(honest - 0.7**3) < 4 * np.sqrt(0.7**3 * (1 - 0.7**3) / 400)
    np.testing.assert_array_equal(lost(1.0), lost("all"))


def test_noise_costs_at_most_what_lemma_4_8_says() -> None:
    plain, noisy = rows(study()), rows(study({"noise": 0.05}))
    honest = plain["strategy"] == "truthful"
    assert (plain["loss"][honest] <= 1e-13).all()
    assert (noisy["loss"][honest] > 0).all()
    assert noisy["loss"][honest].max() <= 2 * 0.05 * 3 * 4  # 2 eps sum w, three groups of at most 4


def test_a_trial_does_not_depend_on_the_others() -> None:
    """A pure function of the specification and the seed: more games, or other chunks, change no game."""
    few, many = rows(study({"games": 5})), rows(study({"games": 40}))
    for name in ("welfare", "revenue", "regret", "utility_i"):
        np.testing.assert_allclose(few[name], many[name][: len(few[name])], rtol=1e-12, atol=1e-15)
    other = rows(study({"seed": 6, "games": 5}))
    assert not np.isin(other["welfare"], few["welfare"]).any()


def test_no_two_games_share_a_seed() -> None:
    found = rows(study({"games": 300, "payments": ["none"]}))
    welfare = found["welfare"][found["strategy"] == "truthful"]
    assert len(np.unique(welfare)) == 300
