"""What a certificate will say is foreseen from what is declared: of itself, beside certificates that were made."""

from pathlib import Path

import numpy as np
import pytest

from rlhf_game.mechanism.sampled.foreseen import MOST, draws_that_would_do, foreseen_tightness
from rlhf_game.mechanism.sampled.sampled_settlement import PolicySamples, SampledGame, certify, least_cap
from rlhf_game.outcomes.finetuned.finetuned_run import foreseen
from rlhf_game.outcomes.run_config import parse_config


def game(strength: float, cap: float = 1.0) -> SampledGame:
    sizes = np.array([2.0, 1.0])
    return SampledGame(sizes, np.ones(2), strength, 0.95, cap * least_cap(sizes, strength))


def test_more_draws_or_prompts_prove_more_and_a_higher_cap_less() -> None:
    def of(strength: float = 0.2, prompts: int = 2, draws: int = 32, cap: float = 1.0) -> float:
        return foreseen_tightness(game(strength, cap), prompts, draws, np.random.default_rng(1))

    assert of(draws=512) < of(draws=128) < of() < of(cap=3.0)
    assert of(prompts=8) < of()
    assert of(cap=3.0) > 1


def test_so_many_draws_make_a_certificate_that_says_something_and_half_as_many_do_not() -> None:
    tight = game(0.1, 4.0)
    enough = draws_that_would_do(tight, 1, 8, np.random.default_rng(2))
    assert enough is not None
    assert enough > 8
    assert draws_that_would_do(tight, 1, 2 * MOST, np.random.default_rng(2)) is None

    def made(draws: int, rng: np.random.Generator) -> float:  # of a policy that is the reference, rewards as foreseen
        rewards = [0.1 * rng.random((2, 1, draws)) for _ in range(2)]
        both = [PolicySamples(each, np.zeros((1, draws))) for each in rewards]
        return certify(tight, both[0], both[1], None).tightness

    rng = np.random.default_rng(3)
    assert np.mean([made(2 * enough, rng) for _ in range(5)]) < 1
    assert np.mean([made(enough // 4, rng) for _ in range(5)]) > 1


@pytest.mark.parametrize(("samples", "says"), [(4, True), (4096, False)])
def test_a_run_says_beforehand_that_its_certificate_will_say_nothing(samples: int, says: bool) -> None:
    document = {
        "model": "model", "prompts": ["a", "b"], "strength": 0.1,
        "outcomes": {"kind": "finetuned", "samples": samples, "size_limit": 4},
        "groups": [{"name": "brief", "size": 2, "reward": {"brevity": 5}},
                   {"name": "long", "reward": {"brevity": 50}}],
    }  # fmt: skip
    said = foreseen(parse_config(document, "run.yaml", Path()))
    assert (said is not None) == says
    assert said is None or ("4 draws of each of 2 prompts" in said and "would do" in said)
