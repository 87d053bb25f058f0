"""Settlements from samples, against games whose outcomes are few enough to know the truth."""

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.betting import pooled_interval
from rlhf_game.mechanism.sampled.certificates import max_welfare
from rlhf_game.mechanism.sampled.estimates import Estimate
from rlhf_game.mechanism.sampled.sampled_settlement import (
    ByFormula,
    ByMenu,
    ByReference,
    ByTrainings,
    OthersWelfare,
    PolicySamples,
    SampledGame,
    SampledSettlement,
    best_welfare,
    certify,
    least_cap,
    settle_samples,
)
from rlhf_game.mechanism.spaces.menu import Menu

STRENGTH = 0.8
REPETITIONS = 40
SIZES = np.array([1.0, 2.0, 1.0])
MULTIPLIERS = np.array([1.0, 0.5, 1.5])


@final
@dataclass(frozen=True, eq=False)
class World:
    """A game over m outcomes for each of B prompts, all of it known. q: [B, m]; rewards: [n, B, m]."""

    q: Array
    rewards: Array
    game: SampledGame

    @classmethod
    def make(cls, seed: int, prompts: int = 2, outcomes: int = 12, level: float = 0.9) -> "World":
        rng = np.random.default_rng(seed)
        q = rng.dirichlet(np.ones(outcomes), size=prompts)
        cap = least_cap(SIZES * MULTIPLIERS, STRENGTH)
        game = SampledGame(SIZES, MULTIPLIERS, STRENGTH, level, cap)
        return cls(q, rng.random((3, prompts, outcomes)), game)

    def trained(self, shares: Array, progress: float = 1.0, rewards: Array | None = None) -> Array:
        """The optimum for a part of the score: [B, m]."""
        said = self.rewards if rewards is None else rewards
        p = self.q * np.exp(progress * np.tensordot(shares, said, 1) / STRENGTH)
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def welfare(self, p: Array, shares: Array) -> float:
        worth = np.tensordot(shares, self.rewards, 1) - STRENGTH * np.log(p / self.q)
        return float((p * worth).sum(axis=1).mean())

    def best(self, shares: Array) -> float:
        powers = self.q * np.exp(np.tensordot(shares, self.rewards, 1) / STRENGTH)
        return float(STRENGTH * np.log(powers.sum(axis=1)).mean())

    def values(self, p: Array) -> Array:
        return np.asarray((p * self.rewards).sum(axis=2).mean(axis=1))

    def affine_payments(self, p: Array) -> Array:
        """(1 / mu) [max ASW_-i - ASW_-i(p)], exact: [n]."""
        owed = [self.best(without) - self.welfare(p, without) for without in self.game.without()]
        return np.array(owed) / MULTIPLIERS

    def samples(self, p: Array, picked: Array, rewards: Array | None = None) -> PolicySamples:
        said = self.rewards if rewards is None else rewards
        ratios = np.log(p / self.q)
        return PolicySamples(
            np.stack([np.take_along_axis(reward, picked, axis=1) for reward in said]),
            np.take_along_axis(ratios, picked, axis=1),
            p is self.q,
        )

    def draw(self, p: Array, count: int, rng: np.random.Generator) -> PolicySamples:
        return self.samples(p, np.stack([rng.choice(row.size, size=count, p=row) for row in p]))

    def even(self, p: Array, count: int, rewards: Array | None = None) -> PolicySamples:
        """Systematic samples in a random order: means over them are expectations, up to 1 / count."""
        at, rng = (np.arange(count) + 0.5) / count, np.random.default_rng(0)
        picked = np.stack([np.minimum(np.searchsorted(np.cumsum(row), rng.permutation(at)), row.size - 1) for row in p])
        return self.samples(p, picked, rewards)


def perturbed(world: World, seed: int = 5) -> Array:
    """A policy that is not quite optimal, in no simple way."""
    rng = np.random.default_rng(seed)
    p = world.trained(world.game.shares, 0.9) * np.exp(0.2 * rng.normal(size=world.q.shape))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def test_the_capped_welfare_of_no_policy_is_above_the_maximum_and_the_optimum_attains_it() -> None:
    rng = np.random.default_rng(0)
    above_with_a_lower_cap = 0
    for seed in range(40):
        world = World.make(seed, prompts=1, outcomes=6)
        q = world.q if seed % 2 else np.full((1, 6), 1 / 6) ** 9  # the second is made rare outcomes of
        q = q / q.sum()
        q[0, 0] = 1e-9
        q /= q.sum()
        world = replace(world, q=q)
        score = np.tensordot(world.game.shares, world.rewards, 1)
        best, cap = world.best(world.game.shares), world.game.cap
        spike = np.full((1, 6), 1e-12)
        spike[0, int(score.argmax())] = 1.0
        rare = np.full((1, 6), 1e-12)
        rare[0, 0] = 1.0
        for p in (spike, rare, *rng.dirichlet(np.full(6, 0.3), size=(50, 1))):
            p = np.maximum(p, 1e-300)
            p = p / p.sum()
            ratio = np.log(p / q)
            assert (p * (score - STRENGTH * np.clip(ratio, -cap, cap))).sum() <= best + 1e-9
            above_with_a_lower_cap += bool((p * (score - STRENGTH * np.clip(ratio, -1, 1))).sum() > best + 1e-6)
        optimum = world.trained(world.game.shares)
        assert np.abs(np.log(optimum / q)).max() <= cap
        assert world.welfare(optimum, world.game.shares) == pytest.approx(best, abs=1e-12)
    assert above_with_a_lower_cap > 0  # the cap is what makes it true


def test_a_cap_that_is_too_low_is_refused() -> None:
    with pytest.raises(InputError, match="cap must be at least"):
        replace(World.make(0).game, cap=2.0)


def numbers(settled: SampledSettlement) -> list[Estimate]:
    return [
        settled.values, settled.payments, settled.utilities, settled.social_welfare, settled.divergence,
        settled.affine_social_welfare, settled.certificate.gap, settled.certificate.affine_payments,
    ]  # fmt: skip


def truths(world: World, p: Array, payments: Array) -> list[Array]:
    shares, values = world.game.shares, world.values(p)
    divergence = float((p * np.log(p / world.q)).sum(axis=1).mean())
    welfare = world.welfare(p, shares)
    scalars = (SIZES @ values, divergence, welfare, world.best(shares) - welfare)
    return [values, payments, SIZES * values - payments, *map(np.asarray, scalars), world.affine_payments(p)]


@pytest.mark.parametrize("repetitions", [REPETITIONS, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", ["formula", "reference", "trainings", "menu"])
def test_every_interval_holds_at_least_as_often_as_it_says(rule: str, repetitions: int) -> None:
    """Repetitions with a policy that is not optimal; each truth is computed over all outcomes."""
    world, rng, count = World.make(3), np.random.default_rng(11), 200
    p = perturbed(world)
    alone = [world.trained(without, 0.8) for without in world.game.without()]
    menu = [world.q, world.trained(world.game.shares, 0.5), p]
    formula = SIZES * world.values(p) + (STRENGTH / MULTIPLIERS) * np.log(
        (p * np.exp(-world.game.shares[:, None, None] * world.rewards / STRENGTH)).sum(axis=2)
    ).mean(axis=1)
    held = np.array([world.welfare(p, without) for without in world.game.without()])
    owed = {
        "formula": formula,
        "reference": world.affine_payments(p),
        "trainings": (np.array([world.welfare(a, w) for a, w in zip(alone, world.game.without(), strict=True)]) - held)
        / MULTIPLIERS,
        "menu": (np.max([[world.welfare(a, w) for w in world.game.without()] for a in menu], axis=0) - held)
        / MULTIPLIERS,
    }[rule]
    true = truths(world, p, owed)
    misses = [np.zeros(truth.shape) for truth in true]
    for _ in range(repetitions):
        delivered, reference = world.draw(p, count, rng), world.draw(world.q, count, rng)
        terms: dict[str, OthersWelfare] = {
            "formula": ByFormula(reference),
            "reference": ByReference(reference),
            "trainings": ByTrainings([world.draw(a, count, rng) for a in alone]),
            "menu": ByMenu([reference, world.draw(menu[1], count, rng), delivered]),
        }
        settled = settle_samples(world.game, delivered, reference, terms[rule])
        for k, (one, truth) in enumerate(zip(numbers(settled), true, strict=True)):
            assert one.level == 0.9
            misses[k] += (truth < one.low - 1e-9) | (truth > one.high + 1e-9)
        assert np.allclose(settled.utilities.value, SIZES * settled.values.value - settled.payments.value, atol=1e-12)
    assert all((missed <= repetitions * 0.1).all() for missed in misses), misses
    many = world.draw(p, 20_000, rng)
    settled = settle_samples(world.game, many, world.draw(world.q, 20_000, rng), ByFormula(world.draw(p, 9, rng)))
    assert settled.payments.width.max() < 0.15  # they close
    assert settled.certificate.gap.width < 0.3


def rare() -> World:
    """One response in a hundred decides: only it is worth something to a group, and nothing to another one."""
    q = np.array([[0.49, 0.3, 0.2, 0.01], [0.25, 0.25, 0.49, 0.01]])
    rewards = np.array([[[0, 0, 0, 1.0]] * 2, [[1, 1, 1, 0.0]] * 2, [[0.5, 0, 1, 0.5]] * 2])
    return replace(World.make(0), q=q, rewards=rewards)


@pytest.mark.parametrize(
    ("rule", "repetitions"),
    [
        ("formula", REPETITIONS),
        pytest.param("formula", 2000, marks=pytest.mark.slow),
        pytest.param("reference", 2000, marks=pytest.mark.slow),
    ],
)
def test_every_interval_holds_where_a_response_that_draws_miss_decides(rule: str, repetitions: int) -> None:
    """At 90 % and three standard errors; the negative control is the normal interval of a value."""
    world, rng, count = rare(), np.random.default_rng(19), 40
    p = world.trained(world.game.shares, 0.7)
    formula = SIZES * world.values(p) + (STRENGTH / MULTIPLIERS) * np.log(
        (p * np.exp(-world.game.shares[:, None, None] * world.rewards / STRENGTH)).sum(axis=2)
    ).mean(axis=1)
    true = truths(world, p, formula if rule == "formula" else world.affine_payments(p))
    misses, normal, most = np.zeros(len(true)), 0, repetitions * 0.1 + 3 * np.sqrt(repetitions * 0.09)
    for _ in range(repetitions):
        delivered, reference = world.draw(p, count, rng), world.draw(world.q, count, rng)
        terms = ByFormula(reference) if rule == "formula" else ByReference(reference)
        settled = settle_samples(world.game, delivered, reference, terms)
        for k, (one, truth) in enumerate(zip(numbers(settled), true, strict=True)):
            misses[k] += not one.contains(truth, 1e-9)
        drawn = delivered.rewards[0].ravel()
        normal += abs(drawn.mean() - true[0][0]) > 1.645 * drawn.std(ddof=1) / np.sqrt(drawn.size)
    assert (misses <= most).all(), misses
    assert normal > most


def test_of_the_untouched_model_no_divergence_is_left_to_prove() -> None:
    """Its log ratio is 0 of every text, so its welfare is known as well as its score; a policy's never is."""
    world, rng, repetitions = World.make(3), np.random.default_rng(23), 20
    true = truths(world, world.q, world.affine_payments(world.q))
    misses = np.zeros(len(true))
    for _ in range(repetitions):
        untouched = world.draw(world.q, 60, rng)
        settled = settle_samples(world.game, untouched, untouched, ByReference(untouched))
        assert (settled.divergence.low, settled.divergence.high) == (0, 0)
        misses += [not np.all(one.contains(truth, 1e-9)) for one, truth in zip(numbers(settled), true, strict=True)]
    assert (misses <= 0.1 * repetitions).all()
    policy = replace(untouched, is_reference=False)  # which said 0 of the same draws, and of others who knows
    other = settle_samples(world.game, policy, untouched, ByReference(untouched))
    assert other.divergence.high > 0.1
    assert settled.affine_social_welfare.width < 0.8 * other.affine_social_welfare.width
    assert settled.certificate.gap.high < other.certificate.gap.high
    with pytest.raises(InputError, match="log ratios of 0 where they are of the reference itself"):
        replace(world.draw(perturbed(world), 60, rng), is_reference=True)


def test_at_the_optimum_every_rule_charges_the_affine_payments() -> None:
    world = World.make(7)
    optimum = world.trained(world.game.shares)
    delivered, reference = world.even(optimum, 5_000), world.even(world.q, 5_000)
    alone = ByTrainings([world.even(world.trained(without), 5_000) for without in world.game.without()])
    for others in (ByFormula(reference), ByReference(reference), alone):
        settled = settle_samples(world.game, delivered, reference, others)
        assert settled.payments.value == pytest.approx(world.affine_payments(optimum), abs=2e-4)
        assert settled.certificate.gap.value == pytest.approx(0, abs=1e-4)


def test_a_formula_that_has_gone_wrong_is_moved_into_what_the_reference_allows() -> None:
    """At a policy that ignores the groups the formula is not the affine payment; enough samples of q show it."""
    world = World.make(2)
    p = world.trained(np.array([0.0, 0.0, 6.0]))
    delivered, reference = world.even(p, 10_000), world.even(world.q, 10_000)
    raw, _ = ByFormula(reference).payments(delivered, world.game, 0.9)
    exact = world.affine_payments(p)
    settled = settle_samples(world.game, delivered, reference, ByFormula(reference))
    assert np.abs(raw / MULTIPLIERS - exact).max() > 0.3
    bracket = best_welfare(world.game, reference, 0.9)
    assert np.abs(settled.payments.value - exact).max() < bracket.width.max() / MULTIPLIERS.min() + 1e-3
    assert (settled.payments.low <= settled.payments.value).all()
    assert (settled.payments.value <= settled.payments.high).all()


@pytest.mark.parametrize("rule", ["formula", "reference", "trainings"])
@pytest.mark.parametrize(("progress", "certified", "count", "lies", "least"), [
    (0.3, 1_000, 1_000, 8, 0.002),
    *(pytest.param(progress, 20_000, 2_000, 50, 0.01, marks=pytest.mark.slow) for progress in (0.3, 0.9)),
])  # fmt: skip
def test_no_misreport_gains_more_than_the_certificate_says(
    rule: str, progress: float, certified: int, count: int, lies: int, least: float
) -> None:
    """Training stops early; lies of each group about reward and size, true utilities by means over even draws."""
    world, rng = World.make(4, prompts=1, outcomes=5), np.random.default_rng(1)
    reference = world.even(world.q, certified)

    def trainings(draws: int) -> ByTrainings:
        return ByTrainings([world.even(world.trained(without, progress), draws) for without in world.game.without()])

    terms = {"formula": ByFormula(reference), "reference": ByReference(reference), "trainings": trainings(certified)}
    delivered = world.even(world.trained(world.game.shares, progress), certified)
    bounds = certify(world.game, delivered, reference, terms[rule]).regret_bounds
    assert bounds is not None
    found, alone = np.zeros(3), trainings(count)
    cap = 3 * world.game.cap  # declared, the same for every report

    def utility(i: int, size: float, reward: Array) -> float:
        sizes = np.where(np.arange(3) == i, size, SIZES)
        said = np.where((np.arange(3) == i)[:, None, None], reward, world.rewards)
        p = world.trained(MULTIPLIERS * sizes, progress, said)
        game = SampledGame(sizes, MULTIPLIERS, STRENGTH, 0.9, cap)
        settled = settle_samples(game, world.even(p, count, said), world.even(world.q, count, said), terms_of(said))
        return float(SIZES[i] * world.values(p)[i] - settled.payments.value[i])

    def terms_of(said: Array) -> OthersWelfare:
        if rule == "formula":
            return ByFormula(world.even(world.q, count, said))
        return ByReference(world.even(world.q, count, said)) if rule == "reference" else alone

    for i in range(3):
        honest = utility(i, SIZES[i], world.rewards[i])
        for _ in range(lies):
            lie = np.clip(world.rewards[i] + rng.normal(scale=0.6, size=world.rewards[i].shape), 0, 1)
            found[i] = max(found[i], utility(i, float(rng.choice([1, 2, 4])), lie) - honest)
    assert found.max() > least or progress > 0.5  # there is something to certify
    assert (found <= bounds + 1e-3).all(), (found, bounds)


def test_policies_of_the_groups_own_making_settle_like_the_menu_space() -> None:
    world, rng = World.make(9), np.random.default_rng(3)
    entries = [world.draw(world.trained(np.array(s)), 50, rng) for s in ([0, 0, 0], [2, 0, 0], [0, 2, 0.5], [1, 1, 1])]
    costs = [float(world.game.costs(one).mean()) for one in entries]
    values = [np.array([one.rewards[i].mean() for one in entries]) for i in range(3)]
    menu = Menu([max(cost, 0) for cost in costs], STRENGTH).maximize(world.game.shares, values)
    game = replace(world.game, choices=len(entries))
    settled = settle_samples(game, entries[menu.chosen], entries[0], ByMenu(entries))
    assert settled.payments.value == pytest.approx(menu.externalities(game.shares, values) / MULTIPLIERS, abs=1e-9)
    assert settled.certificate.regret_bounds is None
    once = settle_samples(world.game, entries[menu.chosen], entries[0], ByMenu(entries))
    assert (settled.values.width > once.values.width).all()  # the price of having chosen by the same samples


def test_a_response_beyond_the_cap_counts_as_the_cap() -> None:
    world, rng = World.make(1), np.random.default_rng(0)
    delivered, reference = world.draw(perturbed(world), 64, rng), world.draw(world.q, 64, rng)
    ratios = delivered.log_ratios.copy()
    ratios[0, :2] = 500.0, -500.0
    capped = np.clip(ratios, -world.game.cap, world.game.cap)
    far = settle_samples(world.game, PolicySamples(delivered.rewards, ratios), reference, ByReference(reference))
    near = settle_samples(world.game, PolicySamples(delivered.rewards, capped), reference, ByReference(reference))
    assert far.divergence.value == near.divergence.value
    assert (far.payments.high == near.payments.high).all()
    assert far.certificate.gap.high == near.certificate.gap.high


def test_without_payments_nothing_is_charged_and_nothing_is_certified_about_lies() -> None:
    world, rng = World.make(1), np.random.default_rng(0)
    delivered, reference = world.draw(perturbed(world), 64, rng), world.draw(world.q, 64, rng)
    settled = settle_samples(world.game, delivered, reference, None)
    assert not settled.payments.value.any()
    assert settled.certificate.regret_bounds is None
    assert settled.certificate.gap.high > 0


def test_one_group_alone_pays_nothing_by_any_rule_but_what_the_provider_loses() -> None:
    rng = np.random.default_rng(0)
    game = SampledGame(np.array([2.0]), np.array([1.0]), STRENGTH, 0.9, least_cap(np.array([2.0]), STRENGTH))
    p, q = rng.dirichlet(np.ones(4), size=2)[:, None]
    picked = rng.integers(4, size=(1, 500))
    delivered = PolicySamples(rng.random((1, 1, 500)), np.take_along_axis(np.log(p / q), picked, axis=1))
    reference = PolicySamples(rng.random((1, 1, 500)), np.zeros((1, 500)))
    settled = settle_samples(game, delivered, reference, ByReference(reference))
    assert settled.payments.value == pytest.approx(STRENGTH * float(game.costs(delivered).mean()))
    assert settled.divergence.value >= 0  # whatever the draws say
    assert settled.divergence.low <= settled.divergence.value <= settled.divergence.high


@pytest.mark.parametrize("ratios", [np.zeros((2, 5)), np.zeros((1, 1)), np.full((1, 4), -np.inf)])
def test_samples_that_do_not_fit_are_refused(ratios: Array) -> None:
    with pytest.raises(InputError, match="samples must have"):
        PolicySamples(np.zeros((3, 1, 4)), ratios)


def the_intervals_of(world: World, level: float) -> tuple[Estimate, Estimate, Estimate, PolicySamples]:
    """Intervals at a level, put together anew: of max ASW, of ASW, of ASW without each group, [n]; the reference."""
    rng = np.random.default_rng(11)
    delivered, reference = world.draw(perturbed(world), 400, rng), world.draw(world.q, 400, rng)
    game = world.game
    reach, top = game.strength * game.cap, float(game.shares.sum())

    def held(shares: Array) -> Estimate:
        worth = np.tensordot(shares, delivered.rewards, 1) - game.strength * np.clip(
            delivered.log_ratios, -game.cap, game.cap
        )
        return pooled_interval(worth, (-reach, float(shares.sum()) + reach), level)

    best = max_welfare(np.tensordot(game.shares, reference.rewards, 1), game.strength, (0.0, top), level=level)
    others = [held(shares) for shares in game.without()]
    stacked_others = Estimate(*(np.array([getattr(one, end) for one in others]) for end in ("value", "low", "high")))
    return best, held(game.shares), stacked_others, reference


def test_the_regret_bound_is_the_gap_and_what_the_report_can_move() -> None:
    world = World.make(4)
    rng = np.random.default_rng(12)
    delivered, reference = world.draw(perturbed(world), 400, rng), world.draw(world.q, 400, rng)
    for others, slack in (
        (ByReference(reference), np.zeros(3)),
        (ByFormula(reference), best_welfare(world.game, reference, world.game.level).width),
    ):
        found = settle_samples(world.game, delivered, reference, others).certificate
        assert found.regret_bounds is not None
        np.testing.assert_allclose(found.regret_bounds, (found.gap.high + slack) / MULTIPLIERS, rtol=1e-12)
    assert (slack > 0).all()
