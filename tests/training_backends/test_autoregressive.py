"""A language model's trie against its own forward passes, and generation from policies, with negative controls."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.errors import InputError
from rlhf_game.mechanism.spaces.chain import Chain
from rlhf_game.mechanism.spaces.expansion import expand
from rlhf_game.mechanism.spaces.trie import Trie

torch = pytest.importorskip("torch", reason="needs torch, of the extra 'train'")

from rlhf_game.training_backends.lm.autoregressive import NextTokens, PolicyLogits  # noqa: E402
from rlhf_game.training_backends.lm.models import LanguageModel  # noqa: E402

VOCABULARY, END = 7, 2
PROMPT = (3, 5, 1)


@pytest.fixture(scope="module")
def language_model() -> LanguageModel:
    """A random Llama of 7 tokens, sharp enough that its sequences differ in probability."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, eos_token_id=END, pad_token_id=END, bos_token_id=1, initializer_range=0.6,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    return LanguageModel(model, None, {})


def by_forward_passes(model: Any, prefix: Sequence[int]) -> np.ndarray:
    """The next-token log probabilities after prompt and prefix, without any cache."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*PROMPT, *prefix]]), use_cache=False).logits[0, -1]
    return logits.double().log_softmax(-1).numpy()


def test_shared_prompt_and_batches_give_the_models_own_probabilities(language_model: LanguageModel) -> None:
    prefixes = [(), (0,), (4, 6), (1,), (4, 6, 3, 3), (5, 0)]
    for batch_size in (1, 64):
        ask = NextTokens(language_model, PROMPT, batch_size=batch_size)
        for _ in range(2):  # asking twice: the prompt's cache is not used up
            rows = ask(prefixes)
            for row, prefix in zip(rows, prefixes, strict=True):
                assert row == pytest.approx(by_forward_passes(language_model.model, prefix), abs=1e-5)


def test_a_trie_of_a_language_model_holds_the_mass_that_it_says(language_model: LanguageModel) -> None:
    found = expand(NextTokens(language_model, PROMPT), ends=[END], max_tokens=3, mass=0.9)
    everything = expand(NextTokens(language_model, PROMPT), ends=[END], max_tokens=3, mass=1.0)
    assert everything.missing == 0
    assert len(everything.sequences) == 1 + 6 + 6 * 6 * 7
    assert np.exp(everything.log_probs).sum() == pytest.approx(1.0, abs=1e-5)
    assert found.missing == pytest.approx(1 - np.exp(found.log_probs).sum(), abs=1e-5)
    assert found.missing <= 0.1
    for sequence, log_q in itertools.islice(zip(found.sequences, found.log_probs, strict=True), 5):
        rows = [by_forward_passes(language_model.model, sequence[:k]) for k in range(len(sequence))]
        assert log_q == pytest.approx(sum(row[token] for row, token in zip(rows, sequence, strict=True)), abs=1e-4)


def generated(language_model: LanguageModel, count: int, length: int, processors: list[Any]) -> list[tuple[int, ...]]:
    """Responses by transformers' generate, each up to and with its first end token."""
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(1)
        out = language_model.model.generate(
            torch.tensor([PROMPT]), do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=count,
            max_new_tokens=length, pad_token_id=END, eos_token_id=END, logits_processor=processors,
        )  # fmt: skip
    rows = [row.tolist() for row in out[:, len(PROMPT) :]]
    return [tuple(row[: row.index(END) + 1] if END in row else row) for row in rows]


def p_value(drawn: list[tuple[int, ...]], sequences: Sequence[tuple[int, ...]], p: np.ndarray) -> float:
    """Pearson's test; outcomes of an expected count below 5 are pooled, anything outside counts as impossible."""
    from scipy import stats

    places = {sequence: i for i, sequence in enumerate(sequences)}
    if not set(drawn) <= set(places):
        return 0.0
    counts = np.bincount([places[sequence] for sequence in drawn], minlength=len(sequences))
    rare = len(drawn) * p < 5
    seen, wanted = np.append(counts[~rare], counts[rare].sum()), np.append(p[~rare], p[rare].sum()) * len(drawn)
    return float(stats.chisquare(seen[wanted > 0], wanted[wanted > 0]).pvalue)


def test_generate_draws_from_the_optimal_policy_of_a_trie(language_model: LanguageModel) -> None:
    """2,000 responses; by chance the first assertion fails once in a thousand seeds (this one is fixed)."""
    expansion = expand(NextTokens(language_model, PROMPT), ends=[END], max_tokens=3, mass=0.95)
    space = Trie.over(expansion, rg.KL(0.3))
    reward = space.read(np.random.default_rng(0).random(len(expansion.sequences)))
    policy = space.maximize(np.ones(1), [reward])
    processor = PolicyLogits(expansion.tree(policy.probabilities), len(PROMPT), end=END)
    drawn = generated(language_model, 2000, 3, [processor])
    assert p_value(drawn, expansion.sequences, policy.probabilities) > 1e-3
    assert p_value(drawn, expansion.sequences, expansion.conditional) < 1e-6
    assert p_value(generated(language_model, 2000, 3, []), expansion.sequences, policy.probabilities) < 1e-6


def test_generate_draws_from_the_optimal_policy_of_a_chain(language_model: LanguageModel) -> None:
    """Three tokens that stand for the model's 4, 0 and 6; a complete outcome is followed by the model's end token."""
    chain = Chain([[0, 1, -1], [1, 0, 1]], [[0.5, 0.3, 0.2], [0.25, 0.25, 0.5]], rg.KL(0.4), horizon=3)
    rewards = [chain.read([[0.0, 1.0, 0.5], [0.3, 0.0, 0.0]])]
    policy, reference = chain.maximize(np.ones(1), rewards), chain.maximize(np.zeros(1), rewards)
    ids = [4, 0, 6]
    processor = PolicyLogits(policy, len(PROMPT), end=END, token_ids=ids)
    drawn = generated(language_model, 2000, 4, [processor])
    assert all(row[-1] == END for row in drawn)
    told = [tuple(ids.index(token) for token in row[:-1]) for row in drawn]
    sequences = sorted({s for n in (1, 2, 3) for s in itertools.product(range(3), repeat=n) if possible(policy, s)})
    p, q = (np.exp([one.log_probability(s) for s in sequences]) for one in (policy, reference))
    assert p.sum() == pytest.approx(1.0)
    assert p_value(told, sequences, p) > 1e-3
    assert p_value(told, sequences, q) < 1e-6


def possible(policy: Any, sequence: tuple[int, ...]) -> bool:
    """Whether the sequence is a complete outcome, and no beginning of it is."""
    return not any(policy.is_complete(sequence[:k]) for k in range(1, len(sequence))) and policy.is_complete(sequence)


def test_a_policy_over_more_tokens_than_the_model_has_is_refused(language_model: LanguageModel) -> None:
    chain = Chain([[0] * 9], [[1 / 9] * 9], rg.KL(1.0), horizon=2)
    policy = chain.maximize(np.ones(1), [chain.read([[0.0] * 9])])
    with pytest.raises(InputError, match="must use the model's 7 tokens, got token 8"):
        generated(language_model, 1, 2, [PolicyLogits(policy, len(PROMPT), end=END)])
