"""One contract: a reward model scores a text as transformers does, alone and unpadded, whatever the batch."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf_game.errors import RunError
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.reward_networks import load_reward_model
from tests.training_backends.cases import ARCHITECTURES, FORMS, PADS, Architecture, Case, is_refused
from tests.training_backends.matrix import save_case, save_network

PAIRS = [
    ("good", "yes"),
    ("good please now maybe", "no no yes"),
    ("bad", "thanks thanks thanks thanks thanks yes yes"),
    ("no", "no"),
    ("yes yes yes", "yes"),
    ("bad", "good please now maybe no now"),
    ("good", "no"),
]
NAMED = ("BERT", "RoBERTa", "ELECTRA", "DeBERTa-v2", "ModernBERT", "GPT-2", "Llama", "Qwen2", "Gemma")


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    with quiet_transformers():
        return {name: save_network(folder / name, kind) for name, kind in ARCHITECTURES.items()}


def as_transformers_does(pair: tuple[str, str], model: Any, tokenizer: Any) -> float:
    prompt, completion = pair
    if tokenizer.chat_template is not None:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        encoded = tokenizer.apply_chat_template(turns, return_dict=True, return_tensors="pt")
    elif tokenizer.sep_token is not None:
        encoded = tokenizer(prompt, completion, return_tensors="pt")
    else:
        encoded = tokenizer(prompt + completion, return_tensors="pt")
    with torch.inference_mode():
        return float(model(**encoded).logits[0, 0])


def check(folder: Path, network: Path, architecture: Architecture, case: Case) -> None:
    with quiet_transformers():
        place = save_case(folder, network, architecture, case)
        backbone = folder / "backbone" if case.is_adapter else place
        model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1, dtype=torch.float32)
        if case.is_adapter:
            model = PeftModel.from_pretrained(model, place)
        model, tokenizer = model.eval(), AutoTokenizer.from_pretrained(place)
    scorer = load_reward_model(str(place))
    try:
        expected = [as_transformers_does(pair, model, tokenizer) for pair in PAIRS]
    except TypeError:
        assert is_refused(architecture, case.pad)
        with pytest.raises(RunError, match="cannot read what its tokenizer makes"):
            scorer.score(PAIRS)
        return
    assert not is_refused(architecture, case.pad)
    assert np.ptp(expected) > 0.1
    for size in (3, len(PAIRS)):
        np.testing.assert_allclose(scorer.score(PAIRS, batch_size=size), expected, atol=1e-5)


def test_every_architecture_is_in_the_matrix() -> None:
    assert tuple(ARCHITECTURES) == NAMED


def cells() -> list[Any]:
    """Every cell; where the side of padding or the precision meets a pad id that is a word, it is a slow one."""
    rare = {(pad, form) for pad in ("equal to eos", "an ordinary word") for form in ("left padding", "bf16")}
    return [
        pytest.param(*cell, marks=[pytest.mark.slow] if cell[1:] in rare else [])
        for cell in product(ARCHITECTURES, PADS, FORMS)
    ]


@pytest.mark.parametrize(("name", "pad", "form"), cells())
def test_scores_are_those_of_transformers(
    networks: dict[str, Path], tmp_path: Path, name: str, pad: str, form: str
) -> None:
    check(tmp_path / "case", networks[name], ARCHITECTURES[name], Case(pad=PADS[pad], **FORMS[form]))
