"""Many games at once are the same games one by one, under every rule; nothing that is asked changes an answer."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.mechanism import settle_games
from rlhf_game.mechanism.reports import Profile
from rlhf_game.mechanism.rules.stopped_training import CheckpointPayments, StoppedPayments, StoppedTraining
from rlhf_game.mechanism.rules.welfare_rules import AlphaFair, Egalitarian, EqualSay, NashWelfare, PolicyMedian
from rlhf_game.mechanism.spaces.chain import Chain
from rlhf_game.mechanism.spaces.table import Table
from rlhf_game.mechanism.training import Trained
from tests.strategies import NAMES, regularizer


@dataclass(frozen=True)
class Half(rg.PaymentRule[rg.AffineRule]):
    def charge(self, optimum: Trained[rg.AffineRule]) -> Any:
        return optimum.externalities() / 2 + 0.01 * optimum.shares / optimum.weights


def games(seed: int, count: int, groups: int = 3, outcomes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rewards = rng.dirichlet(np.ones(outcomes), (count, groups))
    return rewards, rng.integers(1, 9, (count, groups)), rng.dirichlet(np.ones(outcomes), count)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("payment", [rg.AffinePayments(), rg.NoPayments(), rg.RevenueOptimal(), Half()], ids=str)
def test_many_games_are_each_game(name: str, payment: Any) -> None:
    rewards, sizes, references = games(1, 5)
    kind, weights = regularizer(name, 0.6), [0.5, 1.0, 3.0]
    many = rg.settle_many(rewards, sizes, references, kind, weights=weights, payment=payment, normalization="sum")
    mechanism = rg.Mechanism(rg.AffineWelfare(weights), payment)
    for b in range(len(rewards)):
        reports = [rg.Report(r, int(w)) for r, w in zip(rewards[b], sizes[b], strict=True)]
        one = mechanism.settle(reports, rg.Table(references[b], kind, normalization="sum"))
        np.testing.assert_allclose(many.payments[b], one.payments, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(many.utilities[b], one.utilities, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(many.values[b], one.values, rtol=1e-12)
        np.testing.assert_allclose(many.policy[b], one.policy.probabilities, rtol=1e-11)
        assert many.welfare[b] == pytest.approx(one.social_welfare, rel=1e-12)
        assert many.affine_welfare[b] == pytest.approx(one.affine_social_welfare, rel=1e-12)
        assert many.divergence[b] == pytest.approx(one.policy.divergence, rel=1e-11)


@pytest.mark.parametrize(
    ("training", "payment"),
    [
        *((rule, rg.NoPayments()) for rule in (NashWelfare(), AlphaFair(0.5), Egalitarian())),
        *((rule, rg.NoPayments()) for rule in (EqualSay(), PolicyMedian())),
        (StoppedTraining(7), StoppedPayments(3)),
        (StoppedTraining(7), CheckpointPayments()),
    ],
    ids=str,
)  # fmt: skip
def test_other_rules_train_many_games_too(training: Any, payment: Any) -> None:
    rewards, sizes, references = games(2, 4)
    mechanism, kind = rg.Mechanism(training, payment), rg.KL(0.6)
    space = Table(references, kind, games=True)
    profile = Profile(tuple(space.read(rewards[:, i]) for i in range(3)), sizes.T.astype(float))
    many = mechanism.settle_profile(profile, space)
    for b in range(len(rewards)):
        reports = [rg.Report(r, int(w)) for r, w in zip(rewards[b], sizes[b], strict=True)]
        one = mechanism.settle(reports, rg.Table(references[b], kind))
        np.testing.assert_allclose(many.payments[b], one.payments, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(many.values[b], one.values, rtol=1e-9)
        assert many.policy.gap[b] == pytest.approx(one.policy.gap, rel=1e-9, abs=1e-15)
        assert many.affine_social_welfare[b] == pytest.approx(one.affine_social_welfare, rel=1e-10)


@pytest.mark.parametrize("domain", ["sum", "max"])
@pytest.mark.parametrize("payment", [rg.AffinePayments(), rg.RevenueOptimal(), Half()], ids=str)
def test_many_games_on_one_menu_are_each_game(payment: Any, domain: str) -> None:
    rng = np.random.default_rng(7)
    rewards, sizes = rng.integers(0, 4, (200, 3, 5)) + 1.0, rng.integers(1, 5, (200, 3))  # with many ties
    rewards /= rewards.sum(axis=2, keepdims=True) if domain == "sum" else rewards.max(axis=2, keepdims=True)
    menu = rg.Menu([0.0, 0.1, 0.0, 0.3, 0.0], 0.5, normalization=domain)
    mechanism = rg.Mechanism(rg.AffineWelfare([0.5, 1.0, 3.0]), payment)
    many = settle_games(mechanism, rewards, sizes, menu.many(200))
    for b in range(len(rewards)):
        reports = [rg.Report(r, int(w)) for r, w in zip(rewards[b], sizes[b], strict=True)]
        one = mechanism.settle(reports, menu)
        assert (many.policy.probabilities[b] == one.policy.probabilities).all()
        np.testing.assert_allclose(many.payments[b], one.payments, rtol=1e-12, atol=1e-14)
        assert many.affine_social_welfare[b] == one.affine_social_welfare
        assert many.policy.divergence[b] == one.policy.divergence


PROMPTS = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]


@pytest.mark.parametrize(
    "space",
    [
        rg.Table(PROMPTS, rg.PearsonChi2(0.6), normalization="sum"),
        Chain([[0, 1, -1], [1, -1, 0]], PROMPTS, rg.KL(0.6), horizon=3),
    ],
    ids=lambda space: type(space).__name__,
)
@pytest.mark.parametrize("payment", [rg.AffinePayments(), rg.NoPayments(), rg.RevenueOptimal(), Half()], ids=str)
def test_games_on_any_other_space_are_each_game_in_turn(space: Any, payment: Any) -> None:
    rng = np.random.default_rng(8)
    rewards, sizes = rng.dirichlet(np.ones(3), (4, 3, 2)), rng.integers(1, 5, (4, 3))
    training = rg.AffineWelfare([0.5, 1.0, 3.0], boost=rng.random((2, 3)))
    of_one, of_many = rg.Mechanism(training, payment), rg.Mechanism(training.many(4), payment)
    if payment == rg.RevenueOptimal() and not isinstance(space, rg.Table):
        with pytest.raises(rg.CombinationError, match=f"declared domain, not {type(space).__name__}"):
            settle_games(of_many, rewards, sizes, space.many(4))
        return
    many = settle_games(of_many, rewards, sizes, space.many(4))
    for b in range(len(rewards)):
        one = of_one.settle([rg.Report(r, int(w)) for r, w in zip(rewards[b], sizes[b], strict=True)], space)
        np.testing.assert_allclose(many.payments[b], one.payments, rtol=1e-12)
        np.testing.assert_allclose(many.values[b], one.values, rtol=1e-12)
        assert many.affine_social_welfare[b] == pytest.approx(one.affine_social_welfare, rel=1e-12)
        assert many.policy.divergence[b] == pytest.approx(one.policy.divergence, rel=1e-12)
        assert many.policy.gap[b] == one.policy.gap == 0


@final
class Listed(rg.PolicySpace[Any]):
    """A space of somebody's own that knows the table of its outcomes."""

    enumeration: Any = rg.Table(PROMPTS[0], rg.KL(0.6))

    def read(self, reward: Any) -> Any:
        return self.enumeration.read(reward)

    def maximize(self, weights: Any, rewards: Any) -> Any:
        return self.enumeration.maximize(weights, rewards)


def test_a_fair_rule_trains_each_of_many_games_on_a_space_with_an_enumeration() -> None:
    """Games in turn have no table in common: a study tried its first game alone, and then every row had an error."""
    rng = np.random.default_rng(9)
    rewards, sizes = rng.random((4, 3, 3)), rng.integers(1, 5, (4, 3))
    mechanism = rg.Mechanism(NashWelfare(), rg.NoPayments())
    in_turn, at_once = (settle_games(mechanism, rewards, sizes, one.many(4)) for one in (Listed(), Listed.enumeration))
    assert in_turn.values.std() > 0.1
    np.testing.assert_allclose(in_turn.values, at_once.values, rtol=1e-9)
    np.testing.assert_allclose(in_turn.affine_social_welfare, at_once.affine_social_welfare, rtol=1e-9)


def test_rewards_of_other_games_than_there_are_are_refused() -> None:
    with pytest.raises(rg.InputError, match="reward must be those of 3 games, got 2"):
        rg.Table(PROMPTS, rg.KL(1.0)).many(3).read(np.ones((2, 2, 3)))
    with pytest.raises(rg.InputError, match="reward must be 2 numbers, one per menu entry"):
        rg.Menu([0, 0]).many(3).read([1.0, 2.0])


def test_one_size_and_one_reference_are_those_of_every_game() -> None:
    rewards, sizes, references = games(3, 6)
    shared = rg.settle_many(rewards, sizes[0], references[0], rg.KL(0.3))
    spelled = rg.settle_many(rewards, np.tile(sizes[0], (6, 1)), np.tile(references[0], (6, 1)), rg.KL(0.3))
    np.testing.assert_array_equal(shared.payments, spelled.payments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": [[1.0, 0.0]]}, "rewards must be"),
        ({"rewards": np.zeros((0, 2, 2))}, "rewards must be"),
        ({"rewards": np.full((1, 2, 2), np.nan)}, "rewards must be finite"),
        ({"sizes": [1, 2, 3]}, r"sizes must be \[2\] or \[1\]\[2\]"),
        ({"sizes": [1, 0]}, "sizes must be integers >= 1, got 0"),
        ({"sizes": [1, 1.5]}, "sizes must be integers >= 1, got 1.5"),
        ({"reference": [0.5, 0.3, 0.2]}, r"reference must be \[2\] or"),
        ({"reference": [0.5, 0.6]}, "reference must sum to 1"),
        ({"weights": [1.0]}, "weights must be one per group"),
        ({"regularizer": "kl"}, "regularizer must be one such as"),
    ],
)
def test_wrong_arrays_are_input_errors(changes: dict[str, Any], message: str) -> None:
    good = {"rewards": [[[1, 0], [0, 1]]], "sizes": [1, 2], "reference": [0.5, 0.5], "regularizer": rg.KL(1.0)}
    rg.settle_many(**good)
    with pytest.raises(rg.InputError, match=message):
        rg.settle_many(**{**good, **changes})


def test_a_charge_of_another_shape_is_refused() -> None:
    @dataclass(frozen=True)
    class Sum(rg.PaymentRule[rg.AffineRule]):
        def charge(self, optimum: Trained[rg.AffineRule]) -> Any:
            return optimum.externalities().sum()

    with pytest.raises(rg.CombinationError, match=r"Sum.charge must return one number per group, \[1, 2\], got \[\]"):
        rg.settle_many([[[1, 0], [0, 1]]], [1, 2], [0.5, 0.5], rg.KL(1.0), payment=Sum())


def test_a_charge_that_is_no_number_is_refused() -> None:
    @dataclass(frozen=True)
    class Free(rg.PaymentRule[rg.AffineRule]):
        def charge(self, optimum: Trained[rg.AffineRule]) -> Any:
            return "free"

    with pytest.raises(rg.InputError, match=r"Free.charge must be numbers"):
        rg.settle_many([[[1, 0], [0, 1]]], [1, 2], [0.5, 0.5], rg.KL(1.0), payment=Free())


def test_what_a_rule_pays_for_is_its_type_argument() -> None:
    class Both(rg.PaymentRule[NashWelfare | EqualSay]):
        def charge(self, optimum: Any) -> Any:
            return np.zeros(optimum.sizes.shape)

    class Any_(rg.PaymentRule):  # type: ignore[type-arg]
        def charge(self, optimum: Any) -> Any:
            return np.zeros(optimum.sizes.shape)

    class Heir(Both):
        pass

    assert Both.pays_for == Heir.pays_for == (NashWelfare, EqualSay)
    rg.Mechanism(EqualSay(), Heir())
    rg.Mechanism(EqualSay(), Any_())
    with pytest.raises(rg.CombinationError, match="Heir pays for NashWelfare or EqualSay, not SocialWelfare"):
        rg.Mechanism(rg.SocialWelfare(), Heir())
    with pytest.raises(rg.CombinationError, match="must name training rules"):

        class Wrong(rg.PaymentRule[int]):  # type: ignore[type-var]
            pass


@pytest.mark.parametrize("name", NAMES)
def test_no_query_changes_an_answer(name: str) -> None:
    """What is asked first, and an array that its author changes afterwards, make no difference."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        reference, rewards = rng.dirichlet(np.ones(5), 2), [rng.random((2, 5)) for _ in range(3)]
        weights = rng.uniform(0.5, 3, 3)
        optimum = regularizer(name, 0.4).maximize(weights, rewards, reference)
        before, welfare = optimum.values(rewards), optimum.welfare.copy()
        optimum.externalities(weights, rewards)
        optimum.sensitivity(rewards[0])
        np.testing.assert_array_equal(optimum.values(rewards), before)
        np.testing.assert_array_equal(optimum.welfare, welfare)
        rewards[0] += 1.0  # in place: the same array is now another reward
        np.testing.assert_allclose(optimum.values(rewards)[0], before[0] + 1.0, rtol=1e-12)


def test_opposite_wishes_of_hundreds_of_strengths_cost_in_many_games_what_they_do_in_one() -> None:
    """The score hardly varies, each group's own exponents are beyond exp: what is left without it is read again."""
    rng = np.random.default_rng(11)
    first, others = rng.uniform(0, 0.1, (5, 1, 4)), rng.random((5, 1, 4)) * 5e-3
    first[..., 0] = 0.99
    rewards, sizes = np.concatenate([first, 1 - first, others], axis=1), np.ones(3)
    references, regularizer = rng.dirichlet([97, 1, 1, 1], 5), rg.KL(1 / 900)
    many = rg.settle_many(rewards, sizes, references, regularizer)
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    for b, q in enumerate(references):
        one = mechanism.settle([rg.Report(reward) for reward in rewards[b]], rg.Table(q, regularizer))
        np.testing.assert_allclose(many.payments[b], one.payments, rtol=1e-12)
