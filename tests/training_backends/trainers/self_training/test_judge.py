"""A judge's verdicts against the model's own probabilities, by hand; biases of judges that have them."""

import numpy as np
import pytest
import torch

from rlhf_game import InputError
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.trainers.self_training import JudgePrompt, PairJudge, Verdicts, judge_examples
from tests.preferences import preferences, triples

ASK = JudgePrompt("{prompt} now {first} now {second} now", lead="please ", answers=("yes", "no"))


def test_a_verdict_is_a_softmax_over_the_two_answers_in_both_orders(language_model: LanguageModel) -> None:
    judge = PairJudge(language_model, ASK)
    verdicts = judge.compare([("good", "thanks", "bad bad"), ("bad", "no", "yes")], batch_size=3)

    def by_hand(first: str, second: str) -> float:
        ids = [*language_model.encode_prompt(f"good now {first} now {second} now"), 8]  # 8: please
        with torch.no_grad():
            logits = language_model.model(torch.tensor([ids])).logits[0, -1]
        return float(logits[[6, 7]].softmax(dim=0)[0])  # yes, no

    first, second = by_hand("thanks", "bad bad"), 1 - by_hand("bad bad", "thanks")
    assert (verdicts.shown_first[0], verdicts.shown_second[0]) == (pytest.approx(first), pytest.approx(second))
    assert verdicts.strengths[0] == pytest.approx((first + second) / 2)
    assert abs(first - second) > 1e-3  # this judge looks at places


def test_turning_a_pair_round_turns_its_strength_round(language_model: LanguageModel) -> None:
    judge = PairJudge(language_model, ASK)
    rows = triples(preferences(20, seed=3))
    there, back = (judge.compare(pairs) for pairs in (rows, [(p, b, a) for p, a, b in rows]))
    np.testing.assert_allclose(there.strengths, 1 - back.strengths, atol=1e-6)  # float32
    assert there.position_bias == pytest.approx(back.position_bias, abs=1e-6)


def test_biases_of_a_judge_by_hand() -> None:
    only_places = Verdicts(np.array([0.9, 0.9]), np.array([0.1, 0.1]))  # always the first place
    assert (only_places.strengths.tolist(), only_places.consistency) == ([0.5, 0.5], 0.0)
    assert only_places.position_bias == pytest.approx(0.4)
    fair = Verdicts(np.array([0.8, 0.3]), np.array([0.8, 0.3]))
    assert (fair.position_bias, fair.consistency) == (0.0, 1.0)


def test_texts_with_braces_are_texts() -> None:
    assert ASK.filled("{first}", "{second}", "x") == "{first} now {second} now x now"
    with pytest.raises(InputError, match=r"judge.instruction must hold \{second\}"):
        JudgePrompt("{prompt} {first}")


def test_answers_that_are_one_to_the_tokenizer_are_refused(language_model: LanguageModel) -> None:
    for answers in (("A", "B"), ("yes", "yes"), ("yes", "no no")):  # A and B are both unknown words here
        with pytest.raises(InputError, match="judge.answers: must differ in their last token alone"):
            PairJudge(language_model, JudgePrompt(ASK.instruction, "", answers))


@pytest.mark.parametrize("count", [8, 9])
def test_half_of_the_instructions_are_swapped(count: int) -> None:
    rows = triples(preferences(count, seed=1))
    examples = judge_examples(rows, ASK, np.random.default_rng(0))
    swapped = [example.response == "please no" for example in examples]
    assert sum(swapped) == count // 2
    for (prompt, chosen, rejected), example, is_swapped in zip(rows, examples, swapped, strict=True):
        shown = (rejected, chosen) if is_swapped else (chosen, rejected)
        assert example.prompt == ASK.filled(prompt, *shown)


def test_the_instruction_of_the_package_is_one() -> None:
    asked = JudgePrompt().filled("P", "F", "S")
    assert asked.index("P") < asked.index("RESPONSE A:\nF") < asked.index("RESPONSE B:\nS")
