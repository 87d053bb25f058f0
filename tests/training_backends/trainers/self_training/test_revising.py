"""Revisers: labels from gains by hand, what the adaptive one is trained on, and what it does with a response."""

from pathlib import Path

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.training_backends import Sampling, load_language_model
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.trainers.policies import load_policy
from rlhf_game.training_backends.trainers.self_training import (
    SupervisedTraining,
    adaptive_rows,
    examples_of_revisions,
    label_of,
    revise,
    train_supervised,
)
from rlhf_game.training_backends.trainers.self_training.revising import label_log_probabilities, revision_prompt
from tests import tiny
from tests.trainings import made

WORDS = ("[Major", "[Minor", "[No", "Revise]")
PAIRS = [("good", "yes thanks", "no"), ("maybe", "thanks", "bad"), ("now", "good", "yes")]
DRAW = Sampling(max_new_tokens=4)


@pytest.fixture(scope="module")
def reviser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("reviser"), more=WORDS)


@pytest.mark.parametrize(
    ("benefit", "label"),
    [(1.5, "major"), (1.0, "minor"), (0.31, "minor"), (0.3, "none"), (0.0, "none"), (-2.0, "none")],
)
def test_labels_are_the_thresholds_of_the_paper(benefit: float, label: str) -> None:
    assert label_of(benefit, 0.3, 1.0) == label


def test_the_adaptive_reviser_keeps_what_it_cannot_improve() -> None:
    rng = np.random.default_rng(0)
    rows, labels = adaptive_rows(PAIRS, np.array([2.0, 0.5, -1.0]), minor=0.3, major=1.0, kept=1.0, rng=rng)
    assert labels == ["major", "minor", "none"]
    assert rows == [("good", "no", "yes thanks"), ("maybe", "bad", "thanks"), ("now", "yes", "yes")]
    rows, labels = adaptive_rows(PAIRS, np.array([2.0, 0.5, -1.0]), minor=0.3, major=1.0, kept=0.0, rng=rng)
    assert labels == ["major"] * 3
    assert rows[2] == ("now", "yes", "good")


def test_labels_are_kept_with_their_probability() -> None:
    many = PAIRS[:1] * 4000
    _, labels = adaptive_rows(many, np.zeros(4000), minor=0.3, major=1.0, kept=0.8, rng=np.random.default_rng(1))
    assert np.mean([label == "none" for label in labels]) == pytest.approx(0.8, abs=0.02)  # over three standard errors
    _, labels = adaptive_rows(many, np.full(4000, 2.0), minor=0.3, major=1.0, kept=0.8, rng=np.random.default_rng(1))
    assert set(labels) == {"major"}


def test_examples_say_the_label_first() -> None:
    (plain,) = examples_of_revisions([("p", "o", "w")])
    (labelled,) = examples_of_revisions([("p", "o", "w")], ["minor"])
    assert (plain.prompt, plain.lead, plain.response) == (revision_prompt("p", "o"), "", "w")
    assert (labelled.prompt, labelled.lead, labelled.response) == (plain.prompt, "[Minor Revise]\n", "w")


def test_a_reviser_learns_when_not_to_revise(reviser: Path, tmp_path: Path) -> None:
    # Responses with "bad" are to become "good good", others are to stay.
    rows = [
        ("maybe", "bad", "good good"),
        ("now", "bad no", "good good"),
        ("now", "yes", "yes"),
        ("maybe", "thanks", "thanks"),
    ]
    examples = examples_of_revisions(rows, ["major", "major", "none", "none"])
    how = made(SupervisedTraining, str(reviser), steps=60, learning_rate=1e-2, batch_size=4, schedule="constant")
    train_supervised(how, examples, tmp_path / "out")
    trained = load_policy(tmp_path / "out")
    revisions = revise(trained, [row[:2] for row in rows], seed=0, sampling=DRAW, has_labels=True, batch_size=3)
    assert [one.label for one in revisions] == ["major", "major", "none", "none"]
    assert [one.text for one in revisions] == ["good good", "good good", "yes", "thanks"]


def test_the_label_is_the_likeliest_and_text_is_drawn_after_it(reviser: Path) -> None:
    model = load_language_model(str(reviser))
    rows = [("good", "yes no"), ("bad", "thanks"), ("now", "")]
    revisions = revise(model, rows, seed=5, sampling=DRAW, has_labels=True)
    encoded = [model.encode_prompt(revision_prompt(*row)) for row in rows]
    likeliest = label_log_probabilities(model, encoded).argmax(axis=1)
    assert [one.label for one in revisions] == [("major", "minor", "none")[k] for k in likeliest]
    again = revise(model, rows, seed=5, sampling=DRAW, has_labels=True)
    assert revisions == again
    assert {one.label for one in revise(model, rows, seed=5, sampling=DRAW, has_labels=False)} == {None}


def test_a_tokenizer_that_cannot_read_the_labels_is_refused(language_model: LanguageModel) -> None:
    with pytest.raises(InputError, match="reviser: its tokenizer must tell"):
        revise(language_model, [("good", "yes")], seed=0, sampling=DRAW, has_labels=True)
