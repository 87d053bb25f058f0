"""Draws by rejection: golden tapes, bills without bias, utilities never below 0, and no lie that gains."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.partition import rejections, void_probability
from rlhf_game.mechanism.draws.settlement import expected_proposals, settle_tapes
from rlhf_game.mechanism.draws.tapes import Problem, Tape, averaged_utilities, cut, tape_utilities
from tests.mechanism.enumerable_draws import FAR, Model, distances, golden, several, steep

MODELS: dict[str, Callable[[], Model]] = {
    "golden": golden,
    "golden with ceilings": lambda: golden((0.6, 0.7)),
    "several prompts, weights, ceilings, boost": several,
    "steep": lambda: steep(10.0),
}


def bills(tapes: list[Tape], weights: Array, utilities: Callable[[Tape], Array]) -> Array:
    sizes = tapes[0].problem.sizes
    each = [sizes * tape.drawn.mean(axis=1) - utilities(tape) for tape in tapes]
    return np.asarray(np.tensordot(weights, each, 1))


def test_the_golden_tape_serves_and_bills_as_the_theory_says() -> None:
    model = golden()
    outcomes, u = np.array([1, 2, 3, 1, 3, 1]) - 1, np.array([0.5, 0.05, 0.01, 0.02, 0.004, 0.001])
    tape = cut(model.problem, model.rewards[:, 0][:, outcomes], -np.log(u), 1)
    assert tape is not None
    assert (tape.proposals, tape.accepted.tolist()) == (6, [5])
    paid = model.problem.sizes * tape.drawn[:, 0] - tape_utilities(tape)[:, 0]
    assert paid == pytest.approx([1.2004058105, 0.0], abs=1e-10)


def test_rao_blackwell_is_the_mean_over_all_orders() -> None:
    model = golden((0.6, 0.7))
    outcomes = np.array([1, 3, 1, 3, 1, 1]) - 1
    waits = -np.log([0.207, 0.051, 0.092, 0.001, 0.171, 0.088])
    rewards = model.rewards[:, 0][:, outcomes]

    def single(order: list[int]) -> Array:
        one = cut(model.problem, rewards[:, order], waits[order], 2)
        assert one is not None
        return bills([one], np.ones(1), lambda tape: tape_utilities(tape).mean(axis=1))

    tape = cut(model.problem, rewards, waits, 2)
    assert tape is not None
    assert single([0, 1, 2, 3, 4, 5]) == pytest.approx([0.0, 0.59649168], abs=1e-8)
    averaged = bills([tape], np.ones(1), averaged_utilities)
    assert averaged == pytest.approx([0.3719912058, 0.4046462530], abs=1e-10)
    everyone = [single([*order, 5]) for order in permutations(range(5))]
    assert np.mean(everyone, axis=0) == pytest.approx(averaged, abs=1e-14)


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_rao_blackwell_is_the_mean_over_all_orders_of_any_short_tape(draws: int) -> None:
    """Weights, ceilings and a boost too; the random tapes have whatever groups at their ceilings there are."""
    model, rng, tried = several(), np.random.default_rng(draws), 0
    while tried < 8:
        outcomes, waits = rng.integers(6, size=6), rng.standard_exponential(6) * 2
        rewards, boost = model.rewards[:, 0][:, outcomes], model.boost[0][outcomes]
        tape = cut(model.problem, rewards, waits, draws, boost)
        if tape is None or tape.proposals < 5:
            continue
        tried += 1
        last = tape.proposals - 1
        found = []
        for order in permutations(range(last)):
            where = [*order, last]
            one = cut(model.problem, rewards[:, where], waits[where], draws, boost[where])
            assert one is not None
            found.append(tape_utilities(one).mean(axis=1))
        assert averaged_utilities(tape) == pytest.approx(np.mean(found, axis=0), abs=1e-13)


def test_ceilings_raise_the_acceptance() -> None:
    for ceilings, rate in (((1.0, 1.0), 0.0020), ((0.6, 0.7), 0.0730)):
        assert golden(ceilings).rate(0) == pytest.approx(rate, abs=5e-5)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("draws", [1, 4])
def test_bills_values_and_log_z_are_unbiased_and_no_utility_is_negative(name: str, draws: int) -> None:
    check_unbiased(MODELS[name](), draws, 400)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("draws", [1, 4, 64])
def test_twenty_thousand_tapes_are_unbiased(name: str, draws: int) -> None:
    """A tape of the golden game without ceilings takes 32,000 proposals at T = 64."""
    check_unbiased(MODELS[name](), draws, 20_000)


PROPOSALS = 400_000
"""About so many of a prompt are made at a time."""


def check_unbiased(model: Model, draws: int, count: int) -> None:
    rng, exact, rho = np.random.default_rng(draws), model.settled(), model.prompt_weights
    most = (model.problem.sizes * model.problem.ceilings)[:, None]
    block = max(1, int(PROPOSALS * min(map(model.rate, range(len(rho)))) / draws))
    found: dict[str, list[Array]] = {"single": [], "averaged": [], "values": [], "log z": []}
    for start in range(0, count, block):
        for tapes in model.tapes(draws, min(block, count - start), rng):
            singles, averages = [tape_utilities(tape) for tape in tapes], [averaged_utilities(tape) for tape in tapes]
            left = np.column_stack([*singles, *averages])
            assert ((left >= 0) & (left <= most * (1 + 1e-12))).all()
            values = np.array([tape.drawn.mean(axis=1) for tape in tapes]).T @ rho
            single, averaged = np.transpose([one.mean(axis=1) for one in singles]) @ rho, np.transpose(averages) @ rho
            found["single"].append(model.problem.sizes * values - single)
            found["averaged"].append(model.problem.sizes * values - averaged)
            found["values"].append(values)
            log_z = model.problem.top / model.problem.strength - rejections([t.proposals for t in tapes], draws)
            found["log z"].append(log_z)
    truths = {"single": exact.payments, "averaged": exact.payments, "values": exact.values, "log z": model.log_z()}
    for what, truth in truths.items():
        assert (np.abs(distances(found[what], truth)) < FAR).all(), what
    spread = [np.array(found[what]).std(axis=0) for what in ("averaged", "single")]
    assert (spread[0] <= spread[1] * 1.05).all()


def test_a_capped_run_that_charges_anyway_is_caught() -> None:
    """The same test on tapes of at most three quarters of the mean length only: a refusal that looks biases bills."""
    model = golden((0.6, 0.7))
    tapes = model.many(0, 4, 2600, np.random.default_rng(0))
    kept = [tape for tape in tapes if tape.proposals <= 3 / model.rate(0)]
    found = [bills([tape], np.ones(1), averaged_utilities) for tape in kept]
    assert (np.abs(distances(found, model.settled().payments)) > FAR).any()


def test_the_cap_of_the_theory_biases_log_z_as_it_says() -> None:
    rng = np.random.default_rng(1)
    proposals = 16 + rng.negative_binomial(16, 0.05, 200_000)
    kept = proposals <= 400
    assert 1 - kept.mean() == pytest.approx(0.15, abs=0.01)
    assert rejections(proposals, 16).mean() == pytest.approx(-np.log(0.05), abs=0.003)
    assert rejections(proposals[kept], 16).mean() == pytest.approx(2.930, abs=0.003)
    assert void_probability(16, 0.05, 400, 1) == pytest.approx(1 - kept.mean(), abs=0.003)
    assert void_probability(16, 0.05, 400, 30) == 1.0


def test_a_refusal_that_looks_at_reports_invites_lies() -> None:
    """The example of the theory: the truth is refused, a lie is served and gains; declared constants refuse both."""
    space = rg.Table([0.9, 0.1], rg.KL(0.4))
    truth, other = rg.Report([0, 1], size=2), rg.Report([1, 0])
    lie = rg.Report([0.4, 1], size=3)
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())

    def proposals(report: rg.Report) -> float:
        settled = mechanism.settle([report, other], space)
        return float(np.exp((report.size + 1 - settled.affine_social_welfare) / 0.4))

    assert proposals(truth) > 60 > proposals(lie)
    settled = mechanism.settle([lie, other], space)
    assert 2 * settled.policy.probabilities[1] - settled.payments[0] == pytest.approx(0.326, abs=5e-4)
    declared = Problem(np.array([2.0, 1.0]), np.ones(2), 0.4, np.ones(2))
    assert expected_proposals(declared, 3, 1) == pytest.approx(np.exp(6 / 0.4))


def lies(model: Model) -> list[tuple[float, Array]]:
    """Sizes and rewards that group 0 may say instead of the truth: extremes, exaggerations, the best response."""
    truth = model.rewards[0]
    best = rg.BestResponse(starts=4)(
        rg.Group("liar", truth[0], size=int(model.problem.sizes[0])),
        rg.World(
            rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()),
            rg.Table(model.reference[0], rg.KL(model.problem.strength)),
            (rg.Report(model.rewards[1, 0], int(model.problem.sizes[1])),),
        ),
        np.random.default_rng(0),
    )
    claimed = np.clip(np.asarray(best.reward, dtype=float), 0, 1)[None]
    size = float(model.problem.sizes[0])
    return [
        (size, (truth == truth.max()).astype(float)),
        (size, np.ones_like(truth) - truth),
        (2 * size, truth),
        (1.0, truth),
        (size, np.sqrt(truth)),
        (float(best.size), claimed),
    ]


def replayed(model: Model, lie: tuple[float, Array], outcomes: Array, waits: Array) -> float | None:
    """The liar's utility, at its true reward, on given proposals: one draw, the single tape's bill."""
    size, claimed = lie
    true = model.problem
    problem = Problem(np.array([size, true.sizes[1]]), true.multipliers, true.strength, true.ceilings)
    said = np.stack([claimed[0], model.rewards[1, 0]])
    tape = cut(problem, said[:, outcomes], waits, 1)
    if tape is None:
        return None
    served = outcomes[tape.accepted[0]]
    paid = size * tape.drawn[0, 0] - tape_utilities(tape)[0, 0]
    return float(true.sizes[0] * model.rewards[0, 0, served] - paid)


def test_no_lie_gains_in_expectation_and_a_known_tape_does() -> None:
    """All reports on the same 800 tapes; who may look at the tape and choose then gains on nearly each."""
    model, rng = steep(2.0), np.random.default_rng(4)
    truth = (float(model.problem.sizes[0]), model.rewards[0])
    gains, known = [], []
    for _ in range(800):
        outcomes = rng.choice(4, size=400, p=model.reference[0])
        waits = rng.standard_exponential(400)
        honest = replayed(model, truth, outcomes, waits)
        others = [replayed(model, lie, outcomes, waits) for lie in lies_of_steep]
        if honest is None or None in others:
            raise AssertionError("400 proposals must be enough")
        gains.append([other - honest for other in others if other is not None])
        known.append(max(0.0, *gains[-1]))
    assert (distances(gains, 0.0) < FAR).all()
    assert (np.mean(gains, axis=0) < 0.02).all()
    assert np.mean(known) > 0.1  # the negative control
    assert distances(known, 0.0) > FAR


lies_of_steep = lies(steep(2.0))


def test_what_comes_after_the_last_acceptance_is_discarded() -> None:
    model, rng = golden((0.6, 0.7)), np.random.default_rng(7)
    outcomes, waits = rng.integers(3, size=500), rng.standard_exponential(500)
    rewards = model.rewards[:, 0][:, outcomes]
    whole = cut(model.problem, rewards, waits, 5)
    assert whole is not None
    part = cut(model.problem, rewards[:, : whole.proposals], waits[: whole.proposals], 5)
    assert part is not None
    assert np.array_equal(averaged_utilities(whole), averaged_utilities(part))
    assert cut(model.problem, rewards[:, : whole.proposals - 1], waits[: whole.proposals - 1], 5) is None
    assert np.flatnonzero(model.accepts(0, outcomes, waits))[:5].tolist() == whole.accepted.tolist()


def test_bad_input_is_refused() -> None:
    problem = golden().problem
    for arguments, said in (
        (([1.0, 0.0], [1.0, 1.0], 0.5, [1.0, 1.0]), "sizes must be one number > 0"),
        (([1.0], [1.0], 0.5, [np.inf]), "ceilings must be finite"),
        (([1.0], [1.0], 0.0, [1.0]), "strength must be a finite number > 0"),
    ):
        with pytest.raises(InputError, match=said):
            Problem(*arguments)  # type: ignore[arg-type]
    for rewards, waits, draws, said in (
        ([[0.1], [0.2]], [1.0, 1.0], 1, "rewards must be"),
        ([[0.1], [-0.2]], [1.0], 1, "rewards must be >= 0"),
        ([[0.1], [0.2]], [1.0], 0, "draws must be >= 1"),
    ):
        with pytest.raises(InputError, match=said):
            cut(problem, rewards, waits, draws)
    with pytest.raises(InputError, match="boosts must be one per proposal"):
        cut(problem, [[0.1], [0.2]], [1.0], 1, [0.5])
    tape = golden().tape(0, 2, np.random.default_rng(0))
    with pytest.raises(InputError, match="must hold 3 draws"):
        settle_tapes([tape], 3)
    with pytest.raises(InputError, match="one for each prompt"):
        settle_tapes([], 3)
    with pytest.raises(InputError, match="of the same problem"):
        settle_tapes([tape, golden().tape(0, 2, np.random.default_rng(0))], 2)
