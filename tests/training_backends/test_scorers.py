"""Reward models and embedders: the same numbers one by one and in batches; what has no head is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_game import InputError
from rlhf_game.training_backends.lm.scorers import load_classifier, load_embedder
from tests import tiny

PAIRS = [
    ("good", "yes"),
    ("good please now maybe", "no no no"),
    ("bad", "thanks " * 5),
    ("no", "no"),
]


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_reward_model(tmp_path_factory.mktemp("reward"))


def test_scores_do_not_depend_on_the_batch(reward_folder: Path) -> None:
    classifier = load_classifier(str(reward_folder))
    together, alone = classifier.score(PAIRS, batch_size=4), classifier.score(PAIRS, batch_size=1)
    np.testing.assert_allclose(together, alone, atol=1e-5)  # float32
    assert len(set(np.round(together, 4))) == 4
    ids = torch.tensor([classifier.encode(*PAIRS[1])["input_ids"]])
    with torch.inference_mode():
        assert together[1] == pytest.approx(float(classifier.model(input_ids=ids).logits[0, 0]), abs=1e-5)


def test_a_language_model_is_no_reward_model(folder: Path) -> None:
    with pytest.raises(InputError, match=r"must be a trained reward model, its weights lack score.weight"):
        load_classifier(str(folder))


def test_several_logits_are_no_reward(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must have one logit, it has 3"):
        load_classifier(str(tiny.save_reward_model(tmp_path, labels=3)))


def test_a_text_that_does_not_fit_is_refused(reward_folder: Path) -> None:
    with pytest.raises(InputError, match="must fit the 64 tokens that the model reads, found 83; declare truncate"):
        load_classifier(str(reward_folder)).score([("good", "yes " * 80)])


@pytest.mark.weights
def test_embeddings_of_like_sentences_are_near() -> None:
    embedder = load_embedder("all-minilm-l6-v2")
    texts = ["A cat sat on the mat.", "The feline rested on the rug.", "Stocks fell sharply on Monday."]
    vectors = embedder.embed(texts, batch_size=2)
    cosines = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(cosines), 1.0)
    assert cosines[0, 1] > 0.5 > 0.2 > cosines[0, 2]
    np.testing.assert_allclose(vectors, embedder.embed(texts, batch_size=1), atol=1e-5)  # float32
