"""Tokens per second against plain ``model.generate`` on the same prompts, and the mechanism's share of a run.

``make bench``; both ways draw 12 responses of at most 48 tokens to 4 prompts, alternating so that a busy machine
disturbs both. Only tokens up to the first end count; the same sampling (temperature 1, no cut-offs).
"""

import time
from pathlib import Path

import pytest

from rlhf_game.outcomes import run
from rlhf_game.outcomes.demo import demo_config

pytestmark = pytest.mark.weights
PROMPTS = demo_config().source.prompts
EACH, LENGTH, ROUNDS = 12, 48, 3


def _plain(language_model) -> int:
    import torch

    tokenizer, model = language_model.tokenizer, language_model.model
    tokenizer.padding_side = "left"
    texts = [language_model.render(prompt) for prompt in PROMPTS]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        out = model.generate(
            **encoded, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=EACH,
            max_new_tokens=LENGTH, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    rows = out[:, encoded.input_ids.shape[1] :].tolist()
    end = tokenizer.eos_token_id
    return sum(row.index(end) + 1 if end in row else len(row) for row in rows)


def _ours(language_model, seed: int) -> int:
    from rlhf_game.training_backends.lm.sampling import Sampling, sample

    rows = sample(language_model, PROMPTS, EACH, seed=seed, sampling=Sampling(LENGTH), batch_size=len(PROMPTS) * EACH)
    return sum(len(drawn.token_ids) for row in rows for drawn in row)


def test_tokens_per_second_against_plain_generate(benchmark, scoreboard) -> None:
    import torch

    from rlhf_game.training_backends.lm.models import load_language_model

    language_model = load_language_model("smollm2-135m-instruct")
    ways = {"model.generate": lambda: _plain(language_model), "ours": lambda: _ours(language_model, seed=0)}
    claim = "generation: seconds per 1000 tokens"

    def both() -> None:
        for name, draw in ways.items():
            start = time.perf_counter()
            tokens = draw()
            scoreboard.record(claim, name, 1000 * (time.perf_counter() - start) / tokens)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        benchmark.pedantic(both, rounds=ROUNDS, warmup_rounds=1)
    scoreboard.compare(claim, "model.generate", goal=">= 0.95")


def test_the_mechanisms_share_of_a_run(benchmark, tmp_path: Path) -> None:
    marks: dict[str, float] = {}

    def watch(what: str, done: int, total: int) -> None:
        marks.setdefault(f"{what} {done}", time.perf_counter())

    start = time.perf_counter()
    benchmark.pedantic(lambda: run(demo_config(), tmp_path / "out", watch), rounds=1)
    whole = time.perf_counter() - start
    share = (marks["settle 1"] - marks["settle 0"]) / whole
    print(f"\ndemo: {whole:.1f} s as a whole, of which the game and its settlement take {share:.2%}")
    benchmark.extra_info.update(seconds=whole, share=share)
    assert share < 0.01
