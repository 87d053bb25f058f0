"""Trainings from flat settings: what belongs to the model, to its optimisation and to the training finds its place."""

import os
import signal
from dataclasses import fields, is_dataclass, replace
from typing import Any

from rlhf_game.optimization import Optimization, Pretrained

OPTIMIZATION = {field.name for field in fields(Optimization)}
MODEL = {field.name for field in fields(Pretrained)} - {"name"}


def made(kind: Any, *given: Any, **said: Any) -> Any:
    """Make a training of that kind; the first argument, if any, is the model's name."""
    own = {field.name for field in fields(kind)}
    how = replace(kind.optimization, **{key: said.pop(key) for key in OPTIMIZATION & said.keys()})
    model = {key: said.pop(key) for key in MODEL & said.keys()}
    if "model" not in own:
        return kind(*given, optimization=how, **said)
    name, *rest = given or [said.pop("model")]
    return kind(Pretrained(str(name), **model), *rest, optimization=how, **said)


def changed(training: Any, **said: Any) -> Any:
    """Change a training, or any other dataclass, by flat settings."""
    assert is_dataclass(training)
    if hasattr(training, "optimization"):
        changes = {key: said.pop(key) for key in OPTIMIZATION & said.keys()}
        said["optimization"] = replace(training.optimization, **changes)
    if hasattr(training, "optimization") and hasattr(training, "model"):
        model = {key: said.pop(key) for key in MODEL & said.keys()}
        model |= {"name": str(said.pop("model"))} if "model" in said else {}
        said["model"] = replace(training.model, **model)
    return replace(training, **said)  # type: ignore[type-var]


def killed(what: str, step: int, total: int) -> None:
    """Watch a training of a policy, and kill its process without warning after eight steps."""
    if what.startswith("train the policy") and step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
