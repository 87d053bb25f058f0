"""Tries: expansions against full enumeration, intervals against all sequences, tokens against sequences."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rlhf_game as rg
from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.certified import CertifiedSettlement, certify
from rlhf_game.mechanism.mechanism import read_profile
from rlhf_game.mechanism.spaces.expansion import Expansion, expand
from rlhf_game.mechanism.spaces.trie import Trie

MECHANISM = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
END = 0


@dataclass(frozen=True)
class Model:
    """A random autoregressive model over ``tokens`` tokens (0 ends): a fixed distribution for each prefix."""

    seed: int
    tokens: int = 4
    sharpness: float = 1.0
    zeros: bool = False

    def row(self, prefix: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *prefix, len(prefix)])
        logits = rng.normal(size=self.tokens) * self.sharpness
        if self.zeros:
            logits[1 + rng.integers(self.tokens - 1)] = -np.inf
        return logits - np.logaddexp.reduce(logits)

    def __call__(self, prefixes: Any) -> np.ndarray:
        return np.stack([self.row(prefix) for prefix in prefixes])

    def enumerate(self, max_tokens: int) -> dict[tuple[int, ...], float]:
        found = {}
        for length in range(1, max_tokens + 1):
            for sequence in itertools.product(range(self.tokens), repeat=length):
                if END in sequence[:-1] or (sequence[-1] != END and length < max_tokens):
                    continue
                log_q = sum(self.row(sequence[:k])[token] for k, token in enumerate(sequence))
                if log_q > -np.inf:
                    found[sequence] = math.exp(log_q)
        return found


@given(st.integers(0, 50), st.integers(1, 3), st.booleans(), st.sampled_from([1, 3, 64]))
def test_an_expansion_of_mass_one_is_the_enumeration(seed: int, max_tokens: int, zeros: bool, batch: int) -> None:
    model = Model(seed, zeros=zeros)
    found = expand(model, ends=[END], max_tokens=max_tokens, mass=1.0, batch=batch)
    everything = model.enumerate(max_tokens)
    assert set(found.sequences) == set(everything)
    assert len(found.sequences) == len(everything)
    assert np.exp(found.log_probs) == pytest.approx([everything[sequence] for sequence in found.sequences])
    assert found.missing == 0
    assert (np.diff(found.log_probs) <= 0).all()


@given(st.integers(0, 50), st.floats(0.05, 0.999), st.sampled_from([1, 2, 64]), st.sampled_from([3, 10, 10_000]))
def test_an_expansion_knows_what_is_missing(seed: int, mass: float, batch: int, max_nodes: int) -> None:
    model = Model(seed, sharpness=2.0)
    found = expand(model, ends=[END], max_tokens=3, mass=mass, max_nodes=max_nodes, batch=batch)
    everything = model.enumerate(3)
    kept = [everything[sequence] for sequence in found.sequences]
    assert found.missing == pytest.approx(1 - sum(kept), abs=1e-12)
    assert found.expanded <= max_nodes
    assert len(found.sequences) <= max_nodes
    if max_nodes == 10_000:
        assert sum(kept) >= mass - 1e-12
        assert sum(kept[:-1]) < mass  # and no more than needed
        others = [q for sequence, q in everything.items() if sequence not in set(found.sequences)]
        assert found.expanded < 1 + 3 + 9 or mass > 0.5
        assert batch != 1 or max(others) <= 1 - sum(kept) + 1e-12


def test_a_sharp_model_needs_few_of_many_prefixes() -> None:
    """512 tokens and 4 steps: 7 10^10 sequences, nearly all of no weight."""
    found = expand(Model(0, tokens=512, sharpness=12.0), ends=[END], max_tokens=4, mass=0.9, batch=8)
    assert found.expanded < 500
    assert found.missing <= 0.1
    assert np.exp(found.log_probs).sum() + found.missing == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mass": 0.0}, r"mass must be in \(0, 1\], got 0.0"),
        ({"max_tokens": 0}, "max_tokens must be an integer >= 1, got 0"),
        ({"max_nodes": 1.5}, "max_nodes must be an integer >= 1, got 1.5"),
        ({"ends": [9]}, r"rows that hold the ends \[9\], got"),
        ({"next_log_probs": lambda prefixes: np.zeros((len(prefixes), 4))}, "probabilities sum to 1, got 4.0"),
        ({"ends": [-1]}, r"ends must be tokens, got \[-1\]"),
        ({"max_nodes": 1, "next_log_probs": lambda p: np.log([[0, 0.5, 0.5]])}, "max_nodes must be enough"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_an_expansion_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    options = {"next_log_probs": Model(0), "ends": [END], "max_tokens": 3} | change
    model = options.pop("next_log_probs")
    with pytest.raises(InputError, match=message):
        expand(model, **options)


@dataclass(frozen=True)
class Game:
    """Groups with rewards in [lo, hi] on every sequence of a model, of which a trie finds some."""

    model: Model
    rewards: tuple[dict[tuple[int, ...], float], ...]
    sizes: tuple[int, ...]
    strength: float
    bounds: tuple[float, float]

    def trie(self, mass: float) -> Trie:
        expansion = expand(self.model, ends=[END], max_tokens=3, mass=mass)
        return Trie.over(expansion, rg.KL(self.strength), bounds=self.bounds)

    def settle(self, mass: float, mechanism: rg.Mechanism = MECHANISM) -> tuple[rg.Settlement, CertifiedSettlement]:
        space = self.trie(mass)
        reports = [
            rg.Report(lambda sequences, r=reward: [r[s] for s in sequences], size=size)
            for reward, size in zip(self.rewards, self.sizes, strict=True)
        ]
        profile = read_profile(reports, space)
        settlement = mechanism.settle_profile(profile, space)
        return settlement, certify(mechanism, profile, settlement)


@st.composite
def games(draw: st.DrawFn) -> Game:
    """Rewards anywhere in the bounds, or at its ends on the rare sequences: the worst cases."""
    model = Model(draw(st.integers(0, 1000)), sharpness=draw(st.sampled_from([0.5, 2.0, 4.0])))
    everything = model.enumerate(3)
    low, high = draw(st.sampled_from([(0.0, 1.0), (-1.0, 2.0), (0.25, 0.25)]))
    rare = sorted(everything, key=everything.__getitem__)[: len(everything) // 2]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    rewards = []
    for _ in range(draw(st.integers(1, 3))):
        reward = {sequence: float(rng.uniform(low, high)) for sequence in everything}
        elsewhere = draw(st.sampled_from([None, low, high]))
        if elsewhere is not None:
            reward |= dict.fromkeys(rare, elsewhere)
        rewards.append(reward)
    sizes = tuple(draw(st.sampled_from([1, 3, 1000])) for _ in rewards)
    strength = draw(st.sampled_from([0.01, 0.2, 1.0, 30.0, 1e6]))
    return Game(model, tuple(rewards), sizes, strength, (low, high))


QUANTITIES = ("values", "payments", "utilities", "social_welfare", "divergence", "affine_social_welfare")


def numbers(settlement: rg.Settlement, name: str) -> Any:
    return settlement.policy.divergence if name == "divergence" else getattr(settlement, name)


@settings(max_examples=100)
@given(games(), st.sampled_from([0.3, 0.9, 0.999]))
def test_every_interval_contains_the_game_over_all_sequences(game: Game, mass: float) -> None:
    """The truth by the same mechanism on the full enumeration; slack for rounding only."""
    truth, _ = game.settle(1.0)
    settlement, certified = game.settle(mass)
    money = game.strength + sum(game.sizes)
    for name in QUANTITIES:
        interval = getattr(certified, name)
        assert interval.level == 1.0
        slack = 1e-12 * (money / game.strength if name == "divergence" else money)
        assert interval.contains(numbers(truth, name), slack=slack), name
        assert interval.contains(numbers(settlement, name), slack=slack), name
        assert np.allclose(interval.value, numbers(settlement, name), rtol=1e-12, atol=slack)
    assert (certified.payments.low >= 0).all()


@settings(max_examples=30)
@given(games())
def test_intervals_are_points_when_nothing_is_missing(game: Game) -> None:
    _, certified = game.settle(1.0)
    for name in QUANTITIES:
        assert getattr(certified, name).width == pytest.approx(0, abs=1e-12 * (game.strength + sum(game.sizes))), name


def test_intervals_close_as_the_missing_mass_falls() -> None:
    model = Model(5, sharpness=2.0)
    rng = np.random.default_rng(0)
    rewards = tuple({sequence: float(rng.random()) for sequence in model.enumerate(3)} for _ in range(2))
    game = Game(model, rewards, (2, 1), 0.7, (0.0, 1.0))
    widths = {name: [] for name in QUANTITIES}
    for mass in (0.8, 0.99, 0.9999, 0.999999):
        _, certified = game.settle(mass)
        for name in QUANTITIES:
            widths[name].append(float(np.max(getattr(certified, name).width)))
    for name in QUANTITIES:
        assert all(b < a for a, b in itertools.pairwise(widths[name])), name
        assert widths[name][-1] < 1e-4


def test_no_end_is_further_out_than_the_worst_case_needs() -> None:
    """One group, reward hi (lo) on all that is missing: ASW, value and utility end exactly there, payments nearly."""
    model = Model(7, sharpness=2.0)
    found = set(expand(model, ends=[END], max_tokens=3, mass=0.9).sequences)
    rng = np.random.default_rng(1)
    reward = {sequence: float(rng.random()) for sequence in model.enumerate(3)}
    ends = []
    for elsewhere in (0.0, 1.0):
        rest = {sequence: elsewhere for sequence in reward if sequence not in found}
        game = Game(model, (reward | rest,), (1,), 0.5, (0.0, 1.0))
        ends.append(game.settle(1.0)[0])
        _, certified = game.settle(0.9)
    low, high = ends
    assert certified.affine_social_welfare.low == pytest.approx(low.affine_social_welfare, rel=1e-12)
    assert certified.affine_social_welfare.high == pytest.approx(high.affine_social_welfare, rel=1e-12)
    assert certified.values.high[0] == pytest.approx(high.values[0], rel=1e-12)
    assert certified.utilities.high[0] == pytest.approx(high.utilities[0], rel=1e-12)
    reached = max(low.payments[0], high.payments[0])
    assert certified.payments.high[0] <= 1.5 * reached
    assert certified.payments.low[0] >= 0.5 * min(low.payments[0], high.payments[0])


def test_what_is_missing_may_itself_move_far_from_the_reference() -> None:
    """Four equally likely sequences, one found, of reward 1/2; the others earn 0, 0 and 1: most of D is among them."""
    expansions = [
        expand(lambda p: np.log(np.full((len(p), 4), 0.25)), ends=[END], max_tokens=1, mass=m) for m in (0.25, 1)
    ]
    reward = dict(zip(expansions[1].sequences, (0.5, 0.0, 0.0, 1.0), strict=True))
    spaces = [Trie.over(expansion, rg.KL(0.5)) for expansion in expansions]
    some, truth = (
        space.maximize(np.ones(1), [space.read([reward[s] for s in expansion.sequences])])
        for space, expansion in zip(spaces, expansions, strict=True)
    )
    assert some.divergence_bounds().contains(truth.divergence)
    assert truth.divergence > 0.2


def test_intervals_that_forget_the_missing_mass_are_wrong() -> None:
    """The negative control: with delta declared 0 the truth is outside."""
    model = Model(7, sharpness=2.0)
    rng = np.random.default_rng(1)
    game = Game(model, ({s: float(rng.random()) for s in model.enumerate(3)},), (1,), 0.5, (0.0, 1.0))
    truth = game.settle(1.0)[0]
    honest = expand(model, ends=[END], max_tokens=3, mass=0.9)
    claimed = Expansion(honest.sequences, honest.log_probs, 0.0, honest.tokens, honest.expanded)
    space = Trie.over(claimed, rg.KL(0.5))
    profile = read_profile([rg.Report([game.rewards[0][s] for s in honest.sequences])], space)
    certified = certify(MECHANISM, profile, MECHANISM.settle_profile(profile, space))
    for name in QUANTITIES:
        assert not getattr(certified, name).contains(numbers(truth, name), slack=1e-6), name


def test_two_prompts_are_the_weighted_mean_of_each() -> None:
    models = [Model(1), Model(2, sharpness=3.0)]
    expansions = [expand(model, ends=[END], max_tokens=2, mass=0.95) for model in models]
    rng = np.random.default_rng(3)
    rewards = [[rng.random(len(e.sequences)) for e in expansions] for _ in range(2)]

    def certified(space: Trie, tables: list[Any]) -> CertifiedSettlement:
        profile = read_profile([rg.Report(table, size=i + 1) for i, table in enumerate(tables)], space)
        return certify(MECHANISM, profile, MECHANISM.settle_profile(profile, space))

    both = certified(Trie.over(expansions, rg.KL(0.3), prompt_weights=[0.25, 0.75]), rewards)
    each = [certified(Trie.over(e, rg.KL(0.3)), [table[b] for table in rewards]) for b, e in enumerate(expansions)]
    for name in QUANTITIES:
        for end in ("value", "low", "high"):
            one, two = (getattr(getattr(c, name), end) for c in each)
            assert getattr(getattr(both, name), end) == pytest.approx(0.25 * one + 0.75 * two, rel=1e-9)


def test_affine_weights_a_boost_and_no_payments_are_certified_too() -> None:
    model = Model(9, sharpness=2.0)
    everything = model.enumerate(3)
    rng = np.random.default_rng(2)
    tables = [{s: float(rng.random()) for s in everything} for _ in range(3)]
    for payment in (rg.AffinePayments(), rg.NoPayments()):
        settled = []
        for mass in (1.0, 0.95):
            expansion = expand(model, ends=[END], max_tokens=3, mass=mass)
            space, sequences = Trie.over(expansion, rg.KL(0.4)), expansion.sequences
            boost = [min(max(tables[2][s], 0.3), 0.6) for s in sequences]
            boost[0], boost[1] = 0.3, 0.6  # the range is known from the sequences that were found
            mechanism = rg.Mechanism(rg.AffineWelfare(weights=[2.0, 0.5], boost=boost), payment)
            profile = read_profile([rg.Report([t[s] for s in sequences], size=2) for t in tables[:2]], space)
            settlement = mechanism.settle_profile(profile, space)
            settled.append((settlement, certify(mechanism, profile, settlement)))
        (truth, _), (_, certified) = settled
        for name in QUANTITIES:
            assert getattr(certified, name).contains(numbers(truth, name), slack=1e-12), name


def test_rewards_outside_the_bounds_and_other_regularizers_are_refused() -> None:
    expansion = expand(Model(0), ends=[END], max_tokens=1, mass=1.0)
    space = Trie.over(expansion, rg.KL(1.0), bounds=(0.0, 1.0))
    with pytest.raises(InputError, match=r"within the declared bounds \[0.0, 1.0\], got 1.5"):
        space.read([0.0, 0.5, 1.5, 0.0])
    with pytest.raises(CombinationError, match="known under KL, not SquaredL2"):
        Trie.over(expansion, rg.SquaredL2(1.0))
    with pytest.raises(InputError, match=r"missing must be 1 numbers in \[0, 1\), one per prompt, got \[1.0\]"):
        Trie([0.5, 0.5], [1.0], rg.KL(1.0))
    with pytest.raises(InputError, match="bounds must be"):
        Trie.over(expansion, rg.KL(1.0), bounds=(1.0, 0.0))


@given(st.integers(0, 30))
def test_the_tree_multiplies_to_the_policy(seed: int) -> None:
    model = Model(seed)
    expansion = expand(model, ends=[END], max_tokens=3, mass=0.9)
    space = Trie.over(expansion, rg.KL(0.5))
    rewards = np.random.default_rng(seed).random(len(expansion.sequences))
    policy = space.maximize(np.ones(1), [space.read(rewards)])
    tree = expansion.tree(policy.probabilities)
    for sequence, p in zip(expansion.sequences, policy.probabilities, strict=True):
        steps = [tree.next_log_probs(sequence[:k]) for k in range(len(sequence))]
        assert math.exp(sum(row[token] for row, token in zip(steps, sequence, strict=True))) == pytest.approx(p)
        assert all(np.logaddexp.reduce(row) == pytest.approx(0, abs=1e-12) for row in steps)
        assert tree.is_complete(sequence)
    with pytest.raises(InputError, match="must begin a sequence of positive probability"):
        tree.next_log_probs((END, END))


def test_samples_of_the_tree_follow_the_policy_and_not_the_reference() -> None:
    """20,000 samples; by chance the first assertion fails once in a thousand seeds (this one is fixed)."""
    from scipy import stats

    expansion = expand(Model(4), ends=[END], max_tokens=2, mass=0.9)
    space, sequences = Trie.over(expansion, rg.KL(0.5)), expansion.sequences
    rewards = np.random.default_rng(4).random(len(sequences))
    policy = space.maximize(np.full(1, 2.0), [space.read(rewards)])
    places = {sequence: i for i, sequence in enumerate(sequences)}
    drawn = expansion.tree(policy.probabilities).sample(20_000, np.random.default_rng(5))
    counts = np.bincount([places[sequence] for sequence in drawn], minlength=len(sequences))
    assert stats.chisquare(counts, 20_000 * policy.probabilities).pvalue > 1e-3
    assert stats.chisquare(counts, 20_000 * expansion.conditional).pvalue < 1e-6
