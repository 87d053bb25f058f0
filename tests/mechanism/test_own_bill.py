"""The own bill: from the policy and one's own report alone, it is the bill of the settlement, for every regulariser."""

from typing import Any

import numpy as np
import pytest

from rlhf_game import (
    KL,
    AffinePayments,
    AffineWelfare,
    Alpha,
    Chain,
    Hellinger,
    JensenShannon,
    Mechanism,
    PearsonChi2,
    Report,
    ReverseKL,
    SquaredL2,
    Table,
)  # fmt: skip
from rlhf_game.mechanism.own_bill import own_bill, own_chain_bill

REGULARIZERS = [
    KL,
    SquaredL2,
    ReverseKL,
    PearsonChi2,
    JensenShannon,
    Hellinger,
    lambda s: Alpha(s, 0.5),
    lambda s: Alpha(s, 3.0),
]


def game(rng: np.random.Generator, make: Any, strength: float, prompts: int = 2) -> Any:
    m, n = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    q = rng.dirichlet(np.ones(m), prompts)
    rewards, sizes, mu = rng.random((n, prompts, m)), rng.integers(1, 6, n), rng.uniform(0.5, 2, n)
    boost, weights = rng.normal(size=(prompts, m)), rng.dirichlet(np.ones(prompts))
    space = Table(q, make(strength), prompt_weights=weights)
    mechanism = Mechanism(AffineWelfare(mu, boost), AffinePayments())
    settled = mechanism.settle([Report(r, int(w)) for r, w in zip(rewards, sizes, strict=True)], space)
    return q, rewards, sizes, mu, space, settled


@pytest.mark.parametrize("make", REGULARIZERS, ids=lambda make: str(make(1.0)))
def test_the_own_bill_is_the_bill(make: Any) -> None:
    """Exact where all outcomes hold mass; else an interval that holds it. Strengths from weak to strong."""
    rng = np.random.default_rng(12)
    exact = 0
    for _ in range(25):
        strength = float(10 ** rng.uniform(-1.5, 2))
        q, rewards, sizes, mu, space, settled = game(rng, make, strength)
        for i, bill in enumerate(settled.payments):
            own = own_bill(
                settled.policy.probabilities, q, rewards[i], space.prompt_weights, space.regularizer,
                size=int(sizes[i]), weight=float(mu[i]),
            )  # fmt: skip
            slack = 1e-9 * (abs(bill) + sizes[i])
            assert own.payment.contains(bill, slack)
            assert own.value == pytest.approx(settled.values[i], rel=1e-12)
            exact += bool(own.payment.width <= slack)
    assert exact >= 10


def test_the_interval_is_as_narrow_as_the_policy_allows() -> None:
    """Under L2 a score outside the support is anything up to a threshold: both ends are reached by some profile."""
    q, mine = np.array([0.4, 0.3, 0.3]), np.array([1.0, 0.0, 0.5])
    bills, policies = [], []
    for said in (-0.16, -50.0):  # what the boost says of an outcome that gets no mass anyway
        space = Table(q, SquaredL2(1.0))
        boost = np.array([0.0, said, 0.0])
        out = Mechanism(AffineWelfare(None, boost), AffinePayments()).settle([Report(mine, 1)], space)
        bills.append(float(out.payments[0]))
        policies.append(out.policy.probabilities)
    np.testing.assert_allclose(policies[0], policies[1], atol=1e-12)
    own = own_bill([policies[0]], [q], [mine], np.ones(1), SquaredL2(1.0), size=1)
    assert own.payment.low == pytest.approx(bills[1], abs=1e-9)
    assert bills[1] < bills[0] <= own.payment.high + 1e-9


def test_a_wrong_bill_is_outside() -> None:
    rng = np.random.default_rng(3)
    q, rewards, sizes, mu, space, settled = game(rng, KL, 0.7)
    own = own_bill(
        settled.policy.probabilities,
        q,
        rewards[0],
        space.prompt_weights,
        KL(0.7),
        size=int(sizes[0]),
        weight=float(mu[0]),
    )
    assert not own.payment.contains(settled.payments[0] * (1 + 1e-6))
    other = own_bill(
        settled.policy.probabilities,
        q,
        rewards[0] ** 2,
        space.prompt_weights,
        KL(0.7),
        size=int(sizes[0]),
        weight=float(mu[0]),
    )
    assert not other.payment.contains(settled.payments[0], 1e-6)


def test_what_underflows_widens_the_interval_and_never_makes_it_wrong() -> None:
    """Exponents of 2,000: where the policy without the group lives, the delivered one is written as 0."""
    q, mine, theirs = np.array([0.5, 0.5]), np.array([1.0, 0.0]), np.array([0.0, 0.4])
    out = Mechanism(AffineWelfare(), AffinePayments()).settle(
        [Report(mine, 2000), Report(theirs, 1000)], Table(q, KL(1.0))
    )
    assert out.policy.probabilities[1] == 0.0
    own = own_bill([out.policy.probabilities], [q], [mine], np.ones(1), KL(1.0), size=2000)
    assert own.payment.contains(out.payments[0], 1e-6)
    assert own.payment.width > 1


def test_the_own_bill_over_sequences_is_the_bill() -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        states, tokens, horizon = (int(k) for k in rng.integers([1, 2, 1], [4, 4, 6]))
        following = rng.integers(-1, states, (states, tokens))
        q = rng.dirichlet(np.ones(tokens), states)
        rewards, sizes = rng.random((3, states, tokens)), rng.integers(1, 5, 3)
        strength = float(10 ** rng.uniform(-1, 3))
        space = Chain(following, q, KL(strength), horizon=horizon)
        out = Mechanism(AffineWelfare([1.0, 2.0, 0.5]), AffinePayments()).settle(
            [Report(r, int(w)) for r, w in zip(rewards, sizes, strict=True)], space
        )
        for i, mu in enumerate((1.0, 2.0, 0.5)):
            own = own_chain_bill(
                np.asarray(out.policy.probabilities), following, rewards[i],
                initial=0, strength=strength, size=int(sizes[i]), weight=mu,
            )  # fmt: skip
            assert float(own.payment.value) == pytest.approx(out.payments[i], rel=1e-9, abs=1e-13)
            assert own.value == pytest.approx(out.values[i], rel=1e-11)
