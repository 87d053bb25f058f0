"""The space of drawn responses: exact, and truthful whatever the number of candidates."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_game import KL, AffinePayments, InputError, Mechanism, NoPayments, Report, RunError, SocialWelfare, SquaredL2
from rlhf_game.mechanism.spaces.table import Table
from rlhf_game.outcomes import Candidates

PROMPTS = ["p", "q"]
RESPONSES = [["a", "b", "a", "c"], ["d", "d"]]


def length(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [float(len(c)) for c in completions]


def test_duplicates_are_merged_with_their_weights() -> None:
    space = Candidates(PROMPTS, RESPONSES, KL(1.0))
    assert [[(d.text, d.count, d.weight) for d in row] for row in space.drafts] == [
        [("a", 2, 0.5), ("b", 1, 0.25), ("c", 1, 0.25)],
        [("d", 2, 1.0)],
    ]


def test_merging_changes_neither_payments_nor_values() -> None:
    """Twelve separate samples of equal weight are the same game as their distinct texts with the shares as weights."""
    texts = list("aabcabddabca")
    rng = np.random.default_rng(0)
    numbers = [dict(zip("abcd", rng.uniform(0, 1, 4), strict=True)) for _ in range(3)]
    merged = Candidates(["p"], [texts], KL(0.3))
    separate = Table([[1 / 12] * 12], KL(0.3))
    rule = Mechanism(SocialWelfare(), AffinePayments())
    by_text = [Report(lambda prompts, completions, n=n: [n[c] for c in completions], size=2) for n in numbers]
    by_row = [Report([[n[c] for c in texts]], size=2) for n in numbers]
    one, two = rule.settle(by_text, merged), rule.settle(by_row, separate)
    np.testing.assert_allclose(one.payments, two.payments, rtol=1e-12)
    np.testing.assert_allclose(one.values, two.values, rtol=1e-12)


def test_a_reward_gets_prompts_completions_and_columns() -> None:
    seen: dict[str, Any] = {}

    def watch(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, **columns)
        return [0.0] * len(completions)

    Candidates(PROMPTS, RESPONSES, KL(1.0), columns={"answer": [1, 2]}).read(watch)
    expected = {"prompts": ["p", "p", "p", "q"], "completions": ["a", "b", "c", "d"], "answer": [1, 1, 1, 2]}
    assert {name: seen[name] for name in expected} == expected


def test_wrong_rewards_and_responses_are_refused() -> None:
    with pytest.raises(InputError, match="responses must hold at least one text"):
        Candidates(["p"], [[]], KL(1.0))
    with pytest.raises(InputError, match="responses must hold at least one text"):
        Candidates(["p", "q"], [["a"]], KL(1.0))
    with pytest.raises(RunError, match="must return 4 numbers"):
        Candidates(PROMPTS, RESPONSES, KL(1.0)).read(lambda prompts, completions: [1.0])


unit = st.floats(0, 1, allow_subnormal=False)


@given(data=st.data(), samples=st.integers(1, 6), regularizer=st.sampled_from([KL(0.2), SquaredL2(0.5)]))
def test_truth_is_best_however_few_the_candidates(data: st.DataObject, samples: int, regularizer: Any) -> None:
    responses = [data.draw(st.lists(st.sampled_from("abc"), min_size=samples, max_size=samples)) for _ in PROMPTS]
    space = Candidates(PROMPTS, responses, regularizer)
    draw = lambda: [data.draw(st.lists(unit, min_size=len(row), max_size=len(row))) for row in space.drafts]  # noqa: E731
    truth, lie, other = draw(), draw(), draw()
    size, claimed = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 20))
    rule = Mechanism(SocialWelfare(), AffinePayments())
    read = space.read(truth)
    honest = rule.settle([Report(truth, size), Report(other, 2)], space)
    lying = rule.settle([Report(lie, claimed), Report(other, 2)], space)
    gain = size * lying.policy.values([read])[0] - lying.payments[0] - honest.utilities[0]
    assert gain <= 1e-12 * size
    assert honest.utilities[0] >= -1e-12


def test_without_payments_some_lie_gains() -> None:
    space = Candidates(["p"], [list("abc")], KL(0.5))
    truth, lie, other = [[0.9, 0.6, 0.1]], [[1.0, 0.0, 0.0]], Report([[0.0, 1.0, 0.5]])
    rule = Mechanism(SocialWelfare(), NoPayments())
    honest, lying = (rule.settle([Report(said), other], space) for said in (truth, lie))
    assert lying.policy.values([space.read(truth)])[0] > honest.values[0] + 0.01


def test_a_game_with_your_own_reward_runs_in_ten_lines(model: Any) -> None:
    code = f"""
from rlhf_game import KL, AffinePayments, Mechanism, Report, SocialWelfare
from rlhf_game.outcomes import Candidates

def short(prompts, completions, **columns):
    return [1 / (1 + len(text.split())) for text in completions]

def kind(prompts, completions, **columns):
    return [float("thanks" in text) for text in completions]

responses = Candidates.draw({str(model)!r}, ["good", "please"], 16, KL(0.1), seed=0, max_new_tokens=5)
settlement = Mechanism(SocialWelfare(), AffinePayments()).settle([Report(short, size=3), Report(kind)], responses)
"""
    assert len([line for line in code.splitlines() if line.strip()]) == 8
    names: dict[str, Any] = {}
    exec(code, names)
    settlement = names["settlement"]
    assert (settlement.payments > 0).all()
    assert (settlement.utilities >= 0).all()
