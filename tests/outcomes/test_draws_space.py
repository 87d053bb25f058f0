"""The space of exact draws in Python: settlements, new prompts and prices, against the table of all texts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.arrays import Array
from rlhf_game.outcomes.draws.draws_space import DrawsPolicy

TEXTS = ("yes", "no", "maybe", "no thanks")
REFERENCE = {"Tea?": np.array([0.4, 0.3, 0.2, 0.1]), "Coffee?": np.array([0.1, 0.4, 0.2, 0.3])}
WORTH = {"short": np.array([0.9, 1.0, 0.6, 0.1]), "kind": np.array([0.8, 0.1, 0.5, 0.7])}
SIZES, STRENGTH = (2, 1), 0.8
Reward = Callable[..., list[float]]


def write(prompts: Sequence[Any], rng: np.random.Generator) -> list[str]:
    return [TEXTS[rng.choice(4, p=REFERENCE[prompt])] for prompt in prompts]


def reward_of(worth: Array) -> Reward:
    def reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        return [float(worth[TEXTS.index(text)]) for text in completions]

    return reward


REWARDS = {name: reward_of(worth) for name, worth in WORTH.items()}
REPORTS = [rg.Report(reward, size) for reward, size in zip(REWARDS.values(), SIZES, strict=True)]


def space(draws: int, seed: int = 0, prompts: Sequence[str] = tuple(REFERENCE), **more: Any) -> rg.Draws:
    rng = np.random.default_rng(seed)
    return rg.Draws(prompts, write, rg.KL(STRENGTH), draws=draws, max_proposals=100_000, rng=rng, **more)


def exact(rule: rg.AffineRule, **more: Any) -> rg.Settlement:
    table = rg.Table(np.array(list(REFERENCE.values())), rg.KL(STRENGTH), **more)
    reports = [rg.Report(np.tile(worth, (2, 1)), size) for worth, size in zip(WORTH.values(), SIZES, strict=True)]
    return rg.Mechanism(rule, rg.AffinePayments()).settle(reports, table)


def settled(rule: rg.AffineRule, one: rg.Draws) -> tuple[rg.Settlement, DrawsPolicy]:
    found = rg.Mechanism(rule, rg.AffinePayments()).settle(REPORTS, one)
    assert isinstance(found.policy, DrawsPolicy)
    return found, found.policy


def test_a_settlement_over_draws_is_the_tables_in_expectation() -> None:
    """Weights, a boost and unequal prompts too."""
    worth = np.array([-0.1, 0.3, 0.0, 0.1])
    weights = [0.5, 2.0]
    rule = rg.AffineWelfare(weights, boost=reward_of(worth))
    truth = exact(rg.AffineWelfare(weights, boost=np.tile(worth, (2, 1))), prompt_weights=[0.7, 0.3])
    found = [
        settled(rule, space(6, seed, boost_bounds=(-0.1, 0.3), prompt_weights=[0.7, 0.3]))[0] for seed in range(60)
    ]
    for name in ("payments", "values", "affine_social_welfare"):
        numbers = np.array([getattr(one, name) for one in found])
        errors = numbers.std(axis=0, ddof=1) / np.sqrt(len(found))
        assert (np.abs(numbers.mean(axis=0) - getattr(truth, name)) < 4 * errors).all(), name
    divergences = np.array([one.policy.divergence for one in found])
    assert divergences.mean() == pytest.approx(truth.policy.divergence, abs=4 * divergences.std() / np.sqrt(60))


def test_every_interval_of_the_policy_holds_the_tables() -> None:
    truth, (found, policy) = exact(rg.SocialWelfare()), settled(rg.SocialWelfare(), space(200))
    assert policy.drawn.values.contains(truth.values)
    assert policy.drawn.payments.contains(truth.payments)
    assert policy.drawn.affine_welfare.contains(truth.affine_social_welfare)
    assert np.abs(found.payments - truth.payments).max() < 0.2
    assert (policy.drawn.least_utilities >= 0).all()
    assert [len(row) for row in policy.responses] == [200, 200]


def test_a_new_prompt_is_served_by_exactly_the_optimum() -> None:
    """The policy was settled on tea; coffee is drawn from its own optimum, and closely from fresh candidates."""
    _, policy = settled(rg.SocialWelfare(), space(4, prompts=["Tea?"]))
    score = sum(size * worth for size, worth in zip(SIZES, WORTH.values(), strict=True))
    optimum = REFERENCE["Coffee?"] * np.exp(score / STRENGTH)
    optimum /= optimum.sum()
    rng, count = np.random.default_rng(1), 400
    for how, slack in (({}, 0.0), ({"candidates": 32}, 0.03)):
        texts = [policy.sample("Coffee?", rng, **how) for _ in range(count)]
        shares = np.array([texts.count(text) for text in TEXTS]) / count
        assert np.abs(shares - optimum).max() < slack + 4 * np.sqrt(0.25 / count)
    assert np.abs(optimum - REFERENCE["Coffee?"]).max() > 0.2  # another policy would not pass
    with pytest.raises(rg.InputError, match="candidates must be >= 1"):
        policy.sample("Coffee?", rng, candidates=0)


def test_the_price_of_a_response_is_the_optimums_ratio() -> None:
    _, policy = settled(rg.SocialWelfare(), space(2, prompts=["Tea?"]))
    q, rng = REFERENCE["Coffee?"], np.random.default_rng(2)
    shares = [size * worth for size, worth in zip(SIZES, WORTH.values(), strict=True)]
    whole = q * np.exp(sum(shares) / STRENGTH)
    without = np.array([q * np.exp(shares[1 - i] / STRENGTH) for i in (0, 1)])
    ratios = np.log(whole / whole.sum()) - np.log(without / without.sum(axis=1, keepdims=True))
    inside = []
    for y, text in enumerate(TEXTS[:2]):
        found = [policy.price("Coffee?", text, rng, draws=8) for _ in range(30)]
        inside += [(one.low <= STRENGTH * ratios[:, y]) & (STRENGTH * ratios[:, y] <= one.high) for one in found]
        values = np.array([one.value for one in found])
        errors = values.std(axis=0, ddof=1) / np.sqrt(len(found))
        assert (np.abs(values.mean(axis=0) - STRENGTH * ratios[:, y]) < 4 * errors).all()
    assert np.mean(inside) >= found[0].level == 0.95


def test_a_ceiling_cuts_rewards_for_everybody() -> None:
    truth = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(
        [rg.Report(np.tile(np.minimum(w, 0.7), (2, 1)), s) for w, s in zip(WORTH.values(), SIZES, strict=True)],
        rg.Table(np.array(list(REFERENCE.values())), rg.KL(STRENGTH)),
    )
    _, policy = settled(rg.SocialWelfare(), space(150, ceiling=0.7))
    assert policy.drawn.payments.contains(truth.payments)
    assert policy.drawn.values.contains(truth.values)
    assert (policy.drawn.values.high <= 0.7 + 1e-12).all()


def test_columns_reach_rewards_and_other_rewards_have_values() -> None:
    seen: list[str] = []

    def reward(prompts: Sequence[str], completions: Sequence[str], topic: Sequence[str]) -> list[float]:
        seen.extend(topic)
        return [0.5 for _ in completions]

    one = space(3, columns={"topic": ["tea", "coffee"]})
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    found = mechanism.settle([rg.Report(reward), REPORTS[0]], one)
    assert set(seen) == {"tea", "coffee"}
    assert found.payments[0] == pytest.approx(0.0, abs=1e-12)  # who wants everything alike moves nothing
    other = one.read(REWARDS["kind"])
    drawn = [WORTH["kind"][[TEXTS.index(text) for text in row]].mean() for row in found.policy.responses]
    assert found.policy.values([other])[0] == pytest.approx(np.mean(drawn))
    with pytest.raises(rg.InputError, match="parts of the score"):
        found.policy.externalities(np.array([1.0]), [other])


def test_what_cannot_be_drawn_is_refused() -> None:
    rng = np.random.default_rng(0)
    for arguments, said in (
        ({"regularizer": rg.SquaredL2(1.0)}, "regularizer must be KL"),
        ({"prompts": []}, "prompts must be at least one"),
        ({"draws": 0}, "draws must be >= 1"),
        ({"ceiling": 1.5}, "ceiling must be above 0"),
    ):
        given: dict[str, Any] = {
            "prompts": ["Tea?"], "write": write, "regularizer": rg.KL(1.0), "draws": 1, "max_proposals": 9, "rng": rng,
        }  # fmt: skip
        with pytest.raises(rg.InputError, match=said):
            rg.Draws(**(given | arguments))
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    with pytest.raises(rg.InputError, match="must be a function"):
        mechanism.settle([rg.Report([0.1, 0.2])], space(1))
    with pytest.raises(rg.InputError, match=r"in its declared range, .* got 3"):
        mechanism.settle([rg.Report(lambda prompts, completions: [3.0] * len(completions))], space(1))
    with pytest.raises(rg.RunError, match="void for everybody"):
        mechanism.settle(REPORTS, rg.Draws(["Tea?"], write, rg.KL(0.1), draws=9, max_proposals=9, rng=rng))
    with pytest.raises(rg.InputError, match="boost_bounds must be"):
        rg.Mechanism(rg.AffineWelfare(boost=REWARDS["kind"]), rg.AffinePayments()).settle(REPORTS, space(1))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (lambda prompts: ["a"], r"^write must return \d+ texts, one for each prompt, got \['a'\]$"),
        (lambda prompts: ["a"] * (len(prompts) + 1), "^write must return "),
        (lambda prompts: [None] * len(prompts), "got .None, None"),  # not the text "None"
        (lambda prompts: next(iter([])), "^write failed: StopIteration$"),
        (lambda prompts: [1 / 0], "^write failed: ZeroDivisionError: division by zero$"),
    ],
)
def test_who_writes_no_text_for_each_prompt_is_told_so(texts: Any, said: str) -> None:
    space = rg.Draws(
        ["p"], lambda prompts, rng: texts(prompts), rg.KL(0.5), draws=4, max_proposals=99, rng=np.random.default_rng(0)
    )
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    with pytest.raises(rg.RunError, match=said):
        mechanism.settle([rg.Report(lambda completions, **_: [0.5] * len(completions))], space)
