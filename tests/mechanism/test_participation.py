"""The participation rule: truthful, nobody loses, and with a cost of W / 4 a name no false name gains."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from rlhf_game import KL, AffineWelfare, Mechanism, Menu, Report, SquaredL2, Table
from rlhf_game.errors import InputError
from rlhf_game.mechanism.participation import MOST, Participation, ParticipationPayments


def mechanism(cost: float, weights: Any = None, boost: Any = None) -> Mechanism:
    return Mechanism(Participation(AffineWelfare(weights, boost), cost), ParticipationPayments())


def spaces(rng: np.random.Generator) -> Any:
    m = int(rng.integers(2, 5))
    strength = float(10 ** rng.uniform(-1, 0.5))
    q = rng.dirichlet(np.ones(m))
    return [Table(q, KL(strength)), Table(q, SquaredL2(strength)), Menu(rng.random(m), strength)][
        int(rng.integers(3))
    ], m


def utility(rule: Mechanism, space: Any, said: list[Report], at: int, truth: Any, size: int) -> float:
    out = rule.settle(said, space)
    worth = out.policy.model_of(at).values([space.read(truth)])[0]
    return float(size * worth - out.payments[at])


def test_payments_are_clarkes_by_brute_force() -> None:
    """Against the definition: two maxima over sets, by another loop."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        space, m = spaces(rng)
        n, cost = int(rng.integers(1, 5)), float(rng.uniform(0, 0.8))
        mu, boost = rng.uniform(0.5, 2, n), rng.normal(size=m) * 0.3
        rewards, sizes = rng.random((n, m)), rng.integers(1, 4, n)
        out = mechanism(cost, mu, boost).settle([Report(r, int(w)) for r, w in zip(rewards, sizes, strict=True)], space)

        def best(
            of: list[int], space: Any = space, mu: Any = mu, n: int = n, more: Any = (rewards, sizes, boost, cost)
        ) -> Any:
            rewards, sizes, boost, cost = more
            found = []
            for k in range(len(of) + 1):
                for chosen in combinations(of, k):
                    policy = space.maximize(
                        np.array([*(mu[i] * sizes[i] for i in chosen), 1.0]),
                        [*(space.read(rewards[i]) for i in chosen), space.read_boost(boost)],
                    )
                    found.append((policy.welfare - cost * k, chosen, policy))
            return max(found, key=lambda one: one[0])

        top, chosen, policy = best(list(range(n)))
        assert out.affine_social_welfare == pytest.approx(top, abs=1e-9)
        assert [i for i in range(n) if out.policy.takes_part[i]] == list(chosen)
        for i in range(n):
            if i not in chosen:
                assert (out.values[i], out.payments[i]) == (0.0, 0.0)
                continue
            others = best([j for j in range(n) if j != i])[0]
            own = mu[i] * sizes[i] * policy.values([space.read(rewards[i])])[0]
            assert out.payments[i] == pytest.approx((others - (top - own)) / mu[i], abs=1e-9)


def test_no_lie_gains_and_nobody_loses() -> None:
    """Random lies, sharp ones among them; the negative control is the same rule without payments."""
    rng = np.random.default_rng(2)
    best = {"paid": 0.0, "free": 0.0}
    for _ in range(150):
        space, m = spaces(rng)
        n, cost = int(rng.integers(2, 4)), float(rng.uniform(0, 0.6))
        rewards, sizes = rng.random((n, m)), rng.integers(1, 4, n)
        rule = mechanism(cost)
        truth = [Report(r, int(w)) for r, w in zip(rewards, sizes, strict=True)]
        honest = utility(rule, space, truth, 0, rewards[0], int(sizes[0]))
        assert honest >= -1e-12
        for _ in range(6):
            lie = rng.random(m) if rng.random() < 0.5 else np.round(rng.random(m))
            said = [Report(lie, int(rng.integers(1, 8))), *truth[1:]]
            best["paid"] = max(best["paid"], utility(rule, space, said, 0, rewards[0], int(sizes[0])) - honest)
            out, before = rule.settle(said, space), rule.settle(truth, space)
            worth = [float(one.policy.model_of(0).values([space.read(rewards[0])])[0]) for one in (out, before)]
            best["free"] = max(best["free"], sizes[0] * (worth[0] - worth[1]))
    assert best["paid"] <= 1e-9
    assert best["free"] > 0.1


def test_a_cost_of_a_quarter_of_the_owners_members_stops_false_names() -> None:
    """c = mu floor(W / 2) / 2 for integers; the negative control is the same search at no cost."""
    rng = np.random.default_rng(3)
    gained = {"enough": -np.inf, "none": -np.inf}
    for _ in range(200):
        space, m = spaces(rng)
        sizes = [int(k) for k in rng.integers(1, 3, 2)]
        limit, mu = sum(sizes), float(rng.choice([0.5, 1.0, 2.0]))
        truth = np.round(rng.random(m)) if rng.random() < 0.6 else rng.random(m)
        other = Report(rng.random(m), int(rng.integers(1, 4)))
        for name, cost in (("enough", mu * (limit // 2) / 2), ("none", 0.0)):
            one = utility(mechanism(cost, [mu, 1.0]), space, [Report(truth, limit), other], 0, truth, limit)
            names = [Report(truth, w) for w in sizes]
            out = mechanism(cost, [mu, mu, 1.0]).settle([*names, other], space)
            members = [w for i, w in enumerate(sizes) if out.policy.takes_part[i]]
            worth = limit if members else 0  # the owner's members all use what one of its names has access to
            value = float(out.policy.policy.values([space.read(truth)])[0]) if members else 0.0
            several = worth * value - out.payments[:2].sum()
            gained[name] = max(gained[name], several - one)
    assert gained["enough"] <= 1e-9
    assert gained["none"] > 0.05


def test_too_many_groups_and_wrong_costs_are_refused() -> None:
    many = [Report([1.0, 0.0])] * (MOST + 1)
    with pytest.raises(InputError, match="at most 12"):
        mechanism(0.1).settle(many, Table([0.5, 0.5], KL(1.0)))
    for cost in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="participation_cost"):
            mechanism(cost)
