"""What can be wrong with the tables of a game, whatever they are for; each check raises InputError with the field."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.documents import shown
from rlhf_game.files.tables import Shape, Table, describe, shape_of
from rlhf_game.mechanism.reports import NORMALIZATION_TOLERANCE


def check_shape(field: str, found: Shape, wanted: Shape, like: str) -> None:
    """Raise InputError where a table has another shape than the one it must be like."""
    if found != wanted:
        raise InputError(f"{field}: must have {describe(wanted)}, like the {like}; found {describe(found)}")


def check_prompts(fields: Any, reference: Table) -> None:
    """Raise InputError where what is said of each prompt is not said of each."""
    prompts = 1 if len(shape_of(reference)) == 1 else len(reference)
    for field, numbers in (("prompt_weights", fields.prompt_weights), ("missing", fields.missing)):
        if numbers is not None and len(numbers) != prompts:
            raise InputError(f"{field}: must have one number per prompt ({prompts}), found {len(numbers)}")


def check_missing(fields: Any) -> None:
    """Raise InputError where missing mass and the rest of a game do not go together."""
    if (fields.missing is None) != (fields.bounds is None):
        lacking, there = ("missing", "bounds") if fields.missing is None else ("bounds", "missing")
        raise InputError(f"{lacking}: must be given with {there}, found nothing")
    if fields.bounds is None:
        return
    if fields.bounds[0] > fields.bounds[1]:
        raise InputError(f"bounds: must be [lowest, highest], found {fields.bounds}")
    for field, value, wanted in (
        ("regularizer", fields.regularizer, ("kl",)),
        ("normalization", fields.normalization, ("none",)),
        ("payment", fields.payment, ("affine", "none")),
    ):
        if value not in wanted:
            raise InputError(f"{field}: must be {' or '.join(wanted)} with missing mass, found {value}")


def check_labels(labels: Sequence[Any] | None, shape: Shape) -> None:
    """Raise InputError where labels, if there are any, are not one for each outcome, each once."""
    if labels is None:
        return
    found = shape_of(labels) if labels else (0,)
    if found != shape:
        wanted, got = (describe(s, "label") for s in (shape, found))
        raise InputError(f"outcomes: must have {wanted}, one per outcome; found {got}")
    for i, row in enumerate(labels if isinstance(labels[0], list) else [labels]):
        label, times = Counter(row).most_common(1)[0]
        if times > 1:
            where = f"outcomes[{i}]" if isinstance(labels[0], list) else "outcomes"
            raise InputError(f"{where}: must name each outcome once, found {shown(label)!r} {times} times")


def check_automaton(fields: Any, reference: Table) -> None:
    """Raise InputError where states, tokens and probabilities make no automaton."""
    states = len(fields.next_state)
    widths = {len(row) for row in fields.next_state}
    if len(widths) > 1:
        raise InputError(f"next_state: must have rows of one length, found lengths {sorted(widths)}")
    check_shape("reference", shape_of(reference), (states, widths.pop()), "next_state")
    for state, row in enumerate(fields.next_state):
        for token, following in enumerate(row):
            if following >= states:
                field = f"next_state[{state}][{token}]"
                raise InputError(f"{field}: must be a state (0 to {states - 1}) or -1, found {following}")
    if fields.initial >= states:
        raise InputError(f"initial: must be a state (0 to {states - 1}), found {fields.initial}")
    q = np.asarray(reference)
    wrong = ~(
        np.isfinite(q).all(axis=1) & (q >= 0).all(axis=1) & (np.abs(q.sum(axis=1) - 1) <= NORMALIZATION_TOLERANCE)
    )
    if wrong.any():
        state = int(np.argmax(wrong))
        raise InputError(
            f"reference[{state}]: must be probabilities >= 0 with sum 1 (to 1e-6), found sum {q[state].sum()}"
        )
