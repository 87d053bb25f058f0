"""The one signature of a reward on texts, and how it is called."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias, final

import numpy as np

from rlhf_game.callables import call
from rlhf_game.errors import InputError, RunError, boundary
from rlhf_game.files import conversations
from rlhf_game.files.conversations import as_called, response_of, text_of
from rlhf_game.mechanism.arrays import Array, numbers

Text: TypeAlias = conversations.Text | Sequence[Mapping[str, Any]]
"""A text or a conversation, or one as TRL passes it: messages with ``role`` and ``content``."""


class TextReward(Protocol):
    """TRL's reward function: one number per completion; further columns of the prompts come by keyword."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Sequence[float]:
        """Return one number per completion, in the reward's own unit."""
        ...


@final
class Backbones:
    """The networks that rewards stand on, each loaded once, when it is first asked; another process loads its own."""

    @cached_property
    def networks(self) -> Any:
        """Where they are."""
        from rlhf_game.training_backends import Networks

        return Networks()

    def __reduce__(self) -> tuple[type["Backbones"], tuple[()]]:
        return Backbones, ()


def sharing(rewards: Sequence[Any], backbones: Backbones | None = None) -> tuple[Any, ...]:
    """Return the rewards, wherever they are in one another, with a backbone that several stand on in memory once."""
    common = backbones or Backbones()
    return tuple(reward.sharing(common) if hasattr(reward, "sharing") else reward for reward in rewards)


def count_cut(reward: Any, prompts: Sequence[Text], completions: Sequence[Text]) -> int:
    """Return how many completions a reward, or one that it is made of, does not read whole."""
    return int(reward.count_cut(prompts, completions)) if hasattr(reward, "count_cut") else 0


def plain(text: Text) -> str:
    """Return the words of a text; of several turns a transcript."""
    return str(text_of(text, "messages"))


def pairs_of(
    prompts: Sequence[Text], completions: Sequence[Text]
) -> list[tuple[conversations.Text, conversations.Text]]:
    """Return prompts and completions as they were said, for what has a chat template of its own."""
    return [
        (text_of(prompt, f"prompts[{k}]"), response_of(completion, f"completions[{k}]"))
        for k, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]


def name_of(reward: Any) -> str:
    """Return what a reward is called: its ``__name__``, else its class."""
    return str(getattr(reward, "__name__", type(reward).__name__))


def upper_bounds(reward: Any, beginnings: Sequence[str]) -> Array:
    """Return the most that any completion which begins so can score: [k]; infinity where a reward does not say it.

    A reward says it with a method ``upper_bounds`` of the beginnings, each cut anywhere, also within a word.
    """
    if not hasattr(reward, "upper_bounds"):
        return np.full(len(beginnings), np.inf)
    return np.asarray(reward.upper_bounds(beginnings), dtype=np.float64)


def whole_words(beginning: str) -> str:
    """Return a beginning without its last word, which may go on."""
    return beginning[: max((k + 1 for k, character in enumerate(beginning) if character.isspace()), default=0)]


def is_pointwise(reward: Any) -> bool:
    """Return whether a completion's score depends on nothing but the completion and its prompt (not on a rank)."""
    return bool(getattr(reward, "is_pointwise", True))


def call_reward(
    reward: Any,
    prompts: Sequence[Text],
    completions: Sequence[Text],
    columns: Mapping[str, Sequence[Any]] | None = None,
    places: Sequence[int] | None = None,
) -> Array:
    """Return the scores of the completions, [k], checked: one finite number each.

    The reward gets texts; where a prompt is a conversation, messages for it and for its completion, as TRL calls it.
    columns: further columns, one entry per completion. places: which prompt each completion answers, for rewards that
    rank the completions to a prompt: two prompts may have the same text.
    Raises RunError when the reward fails or returns anything else.
    """
    if places is None or is_pointwise(reward):
        return _call(reward, prompts, completions, columns or {})
    scores = np.empty(len(completions))
    for place in dict.fromkeys(places):
        rows = [k for k, other in enumerate(places) if other == place]
        of_rows = {name: [values[k] for k in rows] for name, values in (columns or {}).items()}
        scores[rows] = _call(reward, [prompts[k] for k in rows], [completions[k] for k in rows], of_rows)
    return scores


def call_apart(
    reward: Any,
    prompts: Sequence[Text],
    completions: Sequence[Text],
    columns: Mapping[str, Sequence[Any]] | None = None,
    places: Sequence[int] | None = None,
) -> tuple[Array, Array]:
    """Return the scores of the completions, [k], and those of each member where the reward has any apart, [M, k].

    A reward that is made of its members' scores alone has an ``aggregate``; they are then asked once. See call_reward.
    """
    members = getattr(reward, "members_apart", ())
    each = np.array([call_reward(member, prompts, completions, columns, places) for member in members])
    if len(members) and hasattr(reward, "aggregate"):
        return np.asarray(reward.aggregate(each)), each
    return call_reward(reward, prompts, completions, columns, places), each.reshape(len(members), len(completions))


def _call(
    reward: Any, prompts: Sequence[Text], completions: Sequence[Text], columns: Mapping[str, Sequence[Any]]
) -> Array:
    name = name_of(reward)
    asked, said = as_called(prompts, completions)
    given = {"prompts": asked, "completions": said, **_outside_of_training(), **columns}
    with boundary(f"the reward {name} failed"):
        returned = call(reward, given, name=f"the reward {name}")
    try:
        scores = numbers(returned, name)
    except InputError as error:
        raise RunError(f"the reward {name} must return a list of numbers, got {_described(returned)}") from error
    if scores.shape != (len(completions),):
        raise RunError(
            f"the reward {name} must return {len(completions)} numbers, one per completion, got {_described(returned)}"
        )
    if not np.isfinite(scores).all():
        at = int(np.argmin(np.isfinite(scores)))
        raise RunError(f"the reward {name} must return finite numbers, got {scores[at]} for completion {at}")
    return scores


def _outside_of_training() -> dict[str, Any]:
    """Return what TRL hands to a reward function besides texts and columns, where nothing is being trained.

    ``trainer_state`` has the fields of transformers' TrainerState as they are before the first step; what is logged
    goes nowhere.
    """
    state = SimpleNamespace(
        epoch=0, global_step=0, max_steps=0, logging_steps=500, eval_steps=500, save_steps=500, train_batch_size=None,
        num_train_epochs=0, num_input_tokens_seen=0, total_flos=0, log_history=[], best_metric=None,
        best_global_step=None, best_model_checkpoint=None, is_local_process_zero=True, is_world_process_zero=True,
        is_hyper_param_search=False, trial_name=None, trial_params=None, stateful_callbacks={},
    )  # fmt: skip
    return {"trainer_state": state, "log_extra": _nowhere, "log_metric": _nowhere}


def _nowhere(name: str, value: Any) -> None:
    """Take what a reward function logs."""


def has_none(values: Sequence[Any]) -> bool:
    """Return whether a reward function abstained from some of its completions."""
    return any(value is None for value in values)


def _described(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a list of {len(value)}" + (
            " with None in it, for which abstain declares no number" if has_none(value) else ""
        )
    return type(value).__name__
