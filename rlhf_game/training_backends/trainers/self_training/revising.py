"""A reviser: a language model that reads a response, says how much it will change, and writes a better one.

Source: SEFT, section 3.2. The label is chosen by its probability among the three, and the response is then drawn after
it; a response that needs no revision is handed back as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeAlias, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.lm.sampling import Sampling, log_probabilities, plan_batches, sample_batch
from rlhf_game.training_backends.trainers.reward_training import Pair
from rlhf_game.training_backends.trainers.self_training.supervised import Example, encode_lead

Label: TypeAlias = Literal["major", "minor", "none"]
LEADS: Mapping[Label, str] = {
    "major": "[Major Revise]\n",
    "minor": "[Minor Revise]\n",
    "none": "[No Revise]\n",
}


@final
@dataclass(frozen=True)
class Revision:
    """What a reviser made of a response: its label (None of a reviser without labels), and the response now."""

    label: Label | None
    text: str


def revision_prompt(prompt: Text, response: Text) -> str:
    """Return what a reviser is asked."""
    return (
        "Below are a message and a response to it. Write a better response where you can.\n\n"
        f"Message:\n{prompt}\n\nResponse:\n{response}\n"
    )


def examples_of_revisions(
    rows: Sequence[tuple[Text, Text, Text]], labels: Sequence[Label] | None = None
) -> list[Example]:
    """Return what a reviser learns of (prompt, response, what it should become), [n], with labels or without."""
    leads = [""] * len(rows) if labels is None else [LEADS[label] for label in labels]
    return [
        Example(revision_prompt(prompt, original), wanted, lead)
        for (prompt, original, wanted), lead in zip(rows, leads, strict=True)
    ]


def revise(
    model: LanguageModel,
    rows: Sequence[tuple[Text, Text]],
    *,
    seed: int,
    sampling: Sampling,
    has_labels: bool,
    batch_size: int = 16,
) -> list[Revision]:
    """Return the revisions of (prompt, response), [n]. has_labels: whether the reviser was trained to say them."""
    encoded = [model.encode_prompt(revision_prompt(prompt, response)) for prompt, response in rows]
    if not has_labels:
        texts = _draw(model, encoded, range(len(rows)), seed, sampling, batch_size)
        return [Revision(None, texts[k]) for k in range(len(rows))]
    names = list(LEADS)
    leads = {name: encode_lead(model, LEADS[name]) for name in names}
    chosen = [names[k] for k in label_log_probabilities(model, encoded, batch_size).argmax(axis=1)]
    places = [k for k, label in enumerate(chosen) if label != "none"]
    asked = [[*ids, *leads[label]] for ids, label in zip(encoded, chosen, strict=True)]
    texts = _draw(model, asked, places, seed, sampling, batch_size)
    return [Revision(label, texts.get(k, str(rows[k][1]))) for k, label in enumerate(chosen)]


def label_log_probabilities(model: LanguageModel, encoded: Sequence[Sequence[int]], batch_size: int = 16) -> Array:
    """Return log pi(label | question) in nats of each label after each encoded question: [n, 3].

    Raises InputError when the model's tokenizer reads two labels as the same.
    """
    leads = [encode_lead(model, lead) for lead in LEADS.values()]
    if any(first == second for first, second in combinations(leads, 2)):
        raise InputError(
            f"reviser: its tokenizer must tell {', '.join(map(str.strip, LEADS.values()))} apart, it does not"
        )
    columns = [log_probabilities(model, encoded, [ids] * len(encoded), batch_size=batch_size) for ids in leads]
    return np.stack(columns, axis=1)


def _draw(
    model: LanguageModel,
    encoded: Sequence[Sequence[int]],
    places: Sequence[int],
    seed: int,
    sampling: Sampling,
    batch_size: int,
) -> dict[int, str]:
    """Return one response at each place."""
    found: dict[int, str] = {}
    for batch in plan_batches([len(encoded[k]) for k in places], 1, batch_size):
        draws = [(places[i], 0) for i, _ in batch]
        drawn = sample_batch(model, encoded, draws, seed=seed, sampling=sampling)
        found.update((k, one.text) for (k, _), one in zip(draws, drawn, strict=True))
    return found


def label_of(benefit: float, minor: float, major: float) -> Label:
    """Return the label of a revision by how much it gains with the critic (SEFT: 0.3 and 1.0)."""
    if benefit > major:
        return "major"
    return "minor" if benefit > minor else "none"


def adaptive_rows(
    pairs: Sequence[Pair],
    benefits: Array,
    *,
    minor: float,
    major: float,
    kept: float,
    rng: np.random.Generator,
) -> tuple[list[tuple[Text, Text, Text]], list[Label]]:
    """Return what the adaptive reviser is trained on: (prompt, rejected, target) and the label, [n].

    The target is the chosen response, but the original itself where nothing is to be revised. A label other than major
    is kept with probability ``kept`` and becomes major otherwise: a reviser that goes on learning may manage what the
    preliminary one did not.
    """
    labels = [label_of(float(benefit), minor, major) for benefit in benefits]
    draws = rng.random(len(labels))
    labels = ["major" if draw >= kept else label for label, draw in zip(labels, draws, strict=True)]
    rows = [
        (prompt, rejected, rejected if label == "none" else chosen)
        for (prompt, chosen, rejected), label in zip(pairs, labels, strict=True)
    ]
    return rows, labels
