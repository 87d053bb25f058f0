"""Drawn responses follow the model's own distribution, and their probabilities are exact."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from rlhf_game import InputError
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.lm.sampling import (
    Sampling,
    choose,
    filter_logits,
    log_probabilities,
    plan_batches,
    sample,
    sample_batch,
)
from tests import tiny

PROMPTS = ["good", "please no yes", "thanks maybe maybe now", "bad", "no no no no no no"]
LENGTH = 3
EOS = tiny.WORDS.index("<eos>")


def next_log_probabilities(model: LanguageModel, ids: list[int], temperature: float = 1.0) -> np.ndarray:
    """One forward pass of one sequence: no batch, no padding, no cache."""
    with torch.inference_mode():
        logits = model.model(input_ids=torch.tensor([ids])).logits[0, -1]
    return (logits.double() / temperature).log_softmax(-1).numpy()


def step_by_step(model: LanguageModel, prompt: list[int], response: tuple[int, ...], temperature: float = 1.0) -> float:
    total, ids = 0.0, list(prompt)
    for token in response:
        total += next_log_probabilities(model, ids, temperature)[token]
        ids.append(token)
    return total


def every_response(model: LanguageModel, prompt: list[int], temperature: float = 1.0) -> dict[tuple[int, ...], float]:
    """The probability of each response of at most LENGTH tokens, enumerated."""
    found: dict[tuple[int, ...], float] = {}
    open_ones = {(): 0.0}
    for _ in range(LENGTH):
        following = {}
        for response, so_far in open_ones.items():
            for token, gained in enumerate(next_log_probabilities(model, [*prompt, *response], temperature)):
                place = found if token == EOS else following
                place[*response, token] = so_far + gained
        open_ones = following
    found.update(open_ones)
    return {response: float(np.exp(value)) for response, value in found.items()}


def p_value(counts: dict[tuple[int, ...], int], probabilities: dict[tuple[int, ...], float]) -> float:
    """Chi-square; responses expected fewer than 5 times are one cell."""
    total = sum(counts.values())
    cells = [(counts.get(response, 0), total * p) for response, p in probabilities.items()]
    common = [cell for cell in cells if cell[1] >= 5]
    rare = [cell for cell in cells if cell[1] < 5]
    cells = [*common, (sum(c for c, _ in rare), sum(e for _, e in rare))]
    observed, expected = (np.array(column, dtype=float) for column in zip(*cells, strict=True))
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.fixture(scope="module")
def frequencies(language_model: LanguageModel) -> dict[tuple[int, ...], int]:
    """20,000 responses to one prompt; prompts of other lengths are in the batches too."""
    counts: dict[tuple[int, ...], int] = {}
    how = Sampling(max_new_tokens=LENGTH)
    for drawn in sample(language_model, PROMPTS[:2], 20_000, seed=3, sampling=how, batch_size=2500)[1]:
        counts[drawn.token_ids] = counts.get(drawn.token_ids, 0) + 1
    return counts


def test_responses_are_drawn_from_the_models_own_distribution(
    language_model: LanguageModel, frequencies: dict[tuple[int, ...], int]
) -> None:
    exact = every_response(language_model, language_model.encode_prompt(PROMPTS[1]))
    assert sum(exact.values()) == pytest.approx(1.0, abs=1e-9)
    assert set(frequencies) <= set(exact)
    assert p_value(frequencies, exact) > 1e-3  # seeded: passes or fails once and for all


def test_the_test_of_the_distribution_sees_a_wrong_temperature(
    language_model: LanguageModel, frequencies: dict[tuple[int, ...], int]
) -> None:
    warmer = every_response(language_model, language_model.encode_prompt(PROMPTS[1]), temperature=1.1)
    assert p_value(frequencies, warmer) < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_of_drawn_responses_are_exact(language_model: LanguageModel, temperature: float) -> None:
    how = Sampling(max_new_tokens=8, temperature=temperature)
    rows = sample(language_model, PROMPTS, 9, seed=1, sampling=how, batch_size=20)
    assert {drawn.is_finished for row in rows for drawn in row} == {True, False}
    for prompt, row in zip(PROMPTS, rows, strict=True):
        ids = language_model.encode_prompt(prompt)
        for drawn in row:
            exact = step_by_step(language_model, ids, drawn.token_ids, temperature)
            assert drawn.log_probability == pytest.approx(exact, abs=1e-4)  # float32 logits, up to 8 tokens
            assert drawn.is_finished == (drawn.token_ids[-1] == EOS)
            assert EOS not in drawn.token_ids[:-1]


def test_teacher_forced_log_probabilities_agree_with_a_step_by_step_loop(language_model: LanguageModel) -> None:
    rng = np.random.default_rng(0)
    encoded = [language_model.encode_prompt(PROMPTS[k % 5]) for k in range(12)]
    responses = [tuple(int(t) for t in rng.integers(4, 12, size=1 + k)) for k in range(12)]
    found = log_probabilities(language_model, encoded, responses, batch_size=5)
    exact = [step_by_step(language_model, p, r) for p, r in zip(encoded, responses, strict=True)]
    np.testing.assert_allclose(found, exact, atol=1e-4)  # float32 logits


def test_a_prompt_is_read_once_for_all_responses_of_a_batch(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, forward = [], language_model.model.forward

    def counted(*arguments: Any, **named: Any) -> Any:
        read.append(named["input_ids"].numel())
        return forward(*arguments, **named)

    monkeypatch.setattr(language_model.model, "forward", counted)
    encoded = [language_model.encode_prompt(prompt) for prompt in (PROMPTS[2], PROMPTS[4])]
    asked = [encoded[k % 2] for k in range(6)]
    found = log_probabilities(language_model, asked, [[4, 5]] * 6, batch_size=3)
    assert sum(read) == sum(len(ids) - 1 + 3 * 3 for ids in encoded)  # not 3 * (len(ids) + 2)
    monkeypatch.undo()
    exact = [step_by_step(language_model, ids, (4, 5)) for ids in encoded]
    np.testing.assert_allclose(found, exact * 3, atol=1e-4)  # float32 logits


def test_what_follows_the_first_end_is_ignored(language_model: LanguageModel) -> None:
    prompt = language_model.encode_prompt("good")
    ended, longer = [4, EOS], [4, EOS, EOS, 5]
    found = log_probabilities(language_model, [prompt, prompt], [ended, longer])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] == pytest.approx(step_by_step(language_model, prompt, tuple(ended)), abs=1e-4)


def test_a_draw_depends_on_its_seed_prompt_and_number_only(language_model: LanguageModel) -> None:
    how = Sampling(max_new_tokens=6)
    whole = sample(language_model, PROMPTS, 8, seed=5, sampling=how, batch_size=40)
    alone = sample(language_model, PROMPTS[:2], 3, seed=5, sampling=how, batch_size=1)
    assert [[drawn.token_ids for drawn in row] for row in alone] == [
        [drawn.token_ids for drawn in row[:3]] for row in whole[:2]
    ]  # ten words: no probability is small enough for rounding to matter
    assert whole == sample(language_model, PROMPTS, 8, seed=5, sampling=how, batch_size=40)
    other = sample(language_model, PROMPTS, 8, seed=6, sampling=how, batch_size=40)
    assert other != whole


def test_batches_hold_every_draw_once_and_prompts_of_like_length() -> None:
    batches = plan_batches([5, 1, 9, 1], per_prompt=3, batch_size=4)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    draws = list(itertools.chain.from_iterable(batches))
    assert sorted(draws) == [(i, j) for i in range(4) for j in range(3)]
    assert [i for i, _ in draws] == [1, 1, 1, 3, 3, 3, 0, 0, 0, 2, 2, 2]


def test_top_k_and_top_p_keep_the_fewest_most_probable_tokens() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = lambda how: (filter_logits(logits, how) > -torch.inf)[0].tolist()  # noqa: E731
    assert kept(Sampling()) == [True] * 4
    assert kept(Sampling(top_k=2)) == [True, True, False, False]
    assert kept(Sampling(top_p=0.8)) == [True, True, False, False]
    assert kept(Sampling(top_p=0.81)) == [True, True, True, False]
    assert kept(Sampling(top_p=0.01)) == [True, False, False, False]


def test_a_token_of_probability_zero_is_never_chosen() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(5, -1)
    uniforms = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    chosen, log_chosen = choose(logits, uniforms, Sampling())
    assert chosen.tolist() == [1, 1, 3, 3, 3]
    np.testing.assert_allclose(log_chosen.numpy(), np.log(0.5), rtol=1e-15)


@pytest.mark.parametrize(
    ("setting", "field"),
    [({"max_new_tokens": 0}, "max_new_tokens"), ({"temperature": 0.0}, "temperature"),
     ({"temperature": float("nan")}, "temperature"), ({"top_k": -1}, "top_k"), ({"top_p": 0.0}, "top_p")],
)  # fmt: skip
def test_impossible_settings_are_refused(setting: dict[str, float], field: str) -> None:
    with pytest.raises(InputError, match=f"{field} must be"):
        Sampling(**setting)


def test_a_prompt_that_leaves_no_room_is_refused(language_model: LanguageModel) -> None:
    encoded = [[4], [4] * 60]
    with pytest.raises(InputError, match=r"prompts\[1\] must leave room for max_new_tokens = 8"):
        sample_batch(language_model, encoded, [(0, 0)], seed=0, sampling=Sampling(max_new_tokens=8))
