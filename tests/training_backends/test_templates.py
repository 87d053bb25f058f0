"""What a model reads is what its own chat template writes, and a response ends as the template ends a turn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_game import InputError
from rlhf_game.files.conversations import Conversation, Message, answered, text_of
from rlhf_game.training_backends import load_language_model
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.lm.sampling import Sampling, log_probabilities, sample
from rlhf_game.training_backends.lm.templates import render
from rlhf_game.training_backends.trainers.preferences.preference_judging import ImplicitScorer
from rlhf_game.training_backends.trainers.preferences.preference_rows import encode_pairs
from tests import tiny

GEMMA = (
    "{{ bos_token + ' ' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start> {{ 'model' if m['role'] == 'assistant' else m['role'] }} "
    "{{ m['content'] | trim }} <end> {% endfor %}{% if add_generation_prompt %}<start> model {% endif %}"
)
"""As Gemma's: no system turn, and a token that ends a turn which is not the tokenizer's end of a text."""
CHATML = (
    "{% for m in messages %}<start> {{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<start> assistant {% endif %}"
)
WORDS = ("<start>", "<end>", "user", "model", "assistant", "system")
END = len(tiny.WORDS) + WORDS.index("<end>")
EOS = tiny.WORDS.index("<eos>")
TURNS = [
    {"role": "system", "content": "please"},
    {"role": "user", "content": "good yes"},
    {"role": "assistant", "content": "maybe"},
    {"role": "user", "content": "no"},
]
PROMPT = text_of(TURNS, "prompt")


def model_with(folder: Path, chat: str | None, **how: Any) -> LanguageModel:
    tiny.save_language_model(folder, chat=chat, more=WORDS)
    return load_language_model(str(folder), device="cpu", **how)


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return model_with(tmp_path_factory.mktemp("chatml"), CHATML)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return model_with(tmp_path_factory.mktemp("gemma"), GEMMA)


def words(model: LanguageModel, ids: Any) -> str:
    return " ".join(model.tokenizer.convert_ids_to_tokens(list(ids)))


def test_turns_are_written_by_the_template_and_not_as_one_user_turn(chatml: LanguageModel) -> None:
    assert words(chatml, chatml.encode_prompt(PROMPT)) == (
        "<start> system please <end> <start> user good yes <end> <start> assistant maybe <end> <start> user no <end> "
        "<start> assistant"
    )
    assert chatml.encode_prompt("no", system="please") == chatml.encode_prompt(text_of([TURNS[0], TURNS[3]], "prompt"))


def test_trl_writes_the_same(chatml: LanguageModel) -> None:
    from trl.data_utils import apply_chat_template

    example = {"prompt": TURNS, "completion": [{"role": "assistant", "content": "thanks"}]}
    theirs = apply_chat_template(example, chatml.tokenizer)
    assert chatml.render(PROMPT) == theirs["prompt"]
    assert (
        render(chatml.tokenizer, answered(PROMPT, "thanks"), is_open=False) == theirs["prompt"] + theirs["completion"]
    )
    begun = [*TURNS, {"role": "assistant", "content": "thanks"}]  # the model goes on with the assistant's turn
    assert chatml.render(text_of(begun, "prompt")) == apply_chat_template({"prompt": begun}, chatml.tokenizer)["prompt"]
    assert render(chatml.tokenizer, answered(text_of(begun, "prompt"), " now"), is_open=False).endswith(
        "thanks now <end> "
    )


def test_a_response_ends_with_the_token_that_the_template_ends_a_turn_with(
    gemma: LanguageModel, chatml: LanguageModel
) -> None:
    """Not with the tokenizer's end of a text, which such a model never says."""
    for model in (gemma, chatml):
        assert model.tokenizer.eos_token_id == EOS
        assert model.end_id == END
        assert model.end_ids == (EOS, END)
        assert model.encode_exchange("good", "yes no")[1] == [6, 7, END]
        (pair,) = encode_pairs(model, [("good", "yes no", "bad")], None)
        assert (pair.chosen, pair.rejected) == ((6, 7, END), (5, END))


def test_the_implicit_reward_is_of_the_response_with_the_end_of_its_turn(gemma: LanguageModel, tmp_path: Path) -> None:
    tiny.save_language_model(tmp_path, seed=1, chat=GEMMA, more=WORDS)
    policy = load_language_model(str(tmp_path), device="cpu")
    found = ImplicitScorer(policy, gemma, 0.5, None).score([("good", "yes")])
    ids = gemma.encode_prompt("good")
    ratios = [
        float(log_probabilities(policy, [ids], [[6, end]])[0] - log_probabilities(gemma, [ids], [[6, end]])[0])
        for end in (END, EOS)
    ]
    assert found[0] == pytest.approx(0.5 * ratios[0], abs=1e-5)
    assert abs(ratios[0] - ratios[1]) > 0.1  # the wrong end would be seen


def test_drawing_ends_where_a_turn_ends_and_what_transformers_draws_with_does_too(gemma: LanguageModel) -> None:
    flat = Sampling(max_new_tokens=8, temperature=100.0)
    rows = sample(gemma, list(tiny.WORDS[4:]), 20, seed=0, sampling=flat)
    drawn = [one for row in rows for one in row]
    ended = [one for one in drawn if END in one.token_ids]
    assert ended
    assert all(one.is_finished and one.token_ids.index(END) == len(one.token_ids) - 1 for one in ended)
    assert gemma.model.generation_config is not None
    assert gemma.model.generation_config.eos_token_id == [EOS, END]


@pytest.mark.parametrize(
    ("chat", "wanted"),
    [
        (None, EOS),
        (tiny.CHAT, EOS),  # what stands between turns is the start token
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", EOS),
        ("{% for m in messages %}{{ m['content'] }} <end> <eos> {% endfor %}", EOS),  # words, then an end
        ("{% for m in messages %}{{ m['content'] }} {{ eos_token }} {% endfor %}", EOS),
        ("{% for m in messages %}{{ m['content'] }} <end>{% endfor %}", END),
        ("{{ raise_exception('never') }}", EOS),
    ],
)
def test_where_the_template_ends_a_turn_with_no_single_token_the_tokenizers_end_is_taken(
    tmp_path: Path, chat: str | None, wanted: int
) -> None:
    assert model_with(tmp_path, chat).end_id == wanted


def test_a_template_without_a_system_turn_is_one_line_or_the_user_is_told_where_that_is_declared(
    gemma: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="System role not supported; say fold_system: true") as caught:
        gemma.encode_prompt(PROMPT)
    assert "\n" not in str(caught.value)
    folding = model_with(tmp_path, GEMMA, folds_system=True)
    assert words(folding, folding.encode_prompt(PROMPT)) == (
        "<bos> <start> user please good yes <end> <start> model maybe <end> <start> user no <end> <start> model"
    )
    assert folding.render("no", "please") == "<bos> <start> user please\n\nno <end> <start> model "


def test_a_turn_that_the_template_leaves_out_silently_is_refused(tmp_path: Path) -> None:
    chat = "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }} <end> {% endif %}{% endfor %}"
    model = model_with(tmp_path, chat)
    with pytest.raises(InputError, match="leaves out a system turn; say fold_system: true"):
        model.encode_prompt("no", system="please")
    assert model.render("please", None) == "please <end> "


def test_a_template_that_fails_is_one_line(tmp_path: Path) -> None:
    model = model_with(tmp_path, "{{ messages[0]['content'] }}{{ messages[7]['content'] }} {{ 1 / 0 }}")
    with pytest.raises(InputError, match="chat template must take the turns user, found:"):
        model.encode_prompt("no")


def test_earlier_turns_need_a_template(tmp_path: Path) -> None:
    model = model_with(tmp_path, None)
    assert model.render("no", "please") == "please\n\nno"
    with pytest.raises(InputError, match="must have a model with a chat template"):
        model.encode_prompt(PROMPT)


def test_nothing_is_generated_after_an_end_that_the_tokenizer_appends(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tiny.save_language_model(tmp_path, chat=None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    tokenizer.save_pretrained(tmp_path)
    model = load_language_model(str(tmp_path), device="cpu")
    assert model.tokenizer("good yes").input_ids == [1, 4, 6, 2]
    assert model.encode_prompt("good yes") == [1, 4, 6]
    assert model.encode_prompt("good <eos>") == [1, 4, 2]  # the user's own
    assert model.encode_exchange("good", "yes") == ([1, 4], [6, 2])


def test_a_model_without_an_end_and_without_padding_is_one_line(tmp_path: Path) -> None:
    tiny.save_language_model(tmp_path, chat=None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    network = AutoModelForCausalLM.from_pretrained(tmp_path)
    network.generation_config.eos_token_id = network.config.eos_token_id = None
    network.save_pretrained(tmp_path)
    model = load_language_model(str(tmp_path), device="cpu")
    assert model.end_ids == ()
    assert model.encode_exchange("good", "yes")[1] == [6]
    with pytest.raises(InputError, match="must have a token that ends a text or one for padding, found neither"):
        _ = model.pad_id


def test_a_response_that_calls_a_tool_is_what_the_template_makes_of_it(tmp_path: Path) -> None:
    chat = (
        "{% for m in messages %}<start> {{ m['role'] }} {{ m['content'] }}{% for c in m.get('tool_calls', []) %}"
        "{{ c['function']['name'] }} {{ c['function']['arguments']['x'] }}{% endfor %} <end> {% endfor %}"
        "{% if add_generation_prompt %}<start> assistant {% endif %}"
    )
    model = model_with(tmp_path, chat)
    call = {"type": "function", "function": {"name": "good", "arguments": {"x": "bad"}}}
    said = text_of([{"role": "assistant", "content": None, "tool_calls": [call]}], "chosen")
    assert words(model, model.encode_exchange("no", said)[1]) == "good bad <end>"
    two = Conversation((Message("assistant", "yes"), Message("user", "no"), Message("assistant", "yes")))
    with pytest.raises(InputError, match="a response must be one turn of the assistant, found 3 turns"):
        model.encode_exchange("no", two)


def test_sampling_reads_conversations(chatml: LanguageModel) -> None:
    asked = chatml.encode_prompt(PROMPT)
    drawn = sample(chatml, [PROMPT], 3, seed=0, sampling=Sampling(max_new_tokens=3))[0]
    exact = log_probabilities(chatml, [asked] * 3, [one.token_ids for one in drawn])
    np.testing.assert_allclose([one.log_probability for one in drawn], exact, atol=1e-4)  # float32 logits
    assert torch.is_tensor(chatml.model.lm_head.weight)
