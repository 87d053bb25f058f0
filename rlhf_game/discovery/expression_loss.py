"""Expressions as losses that a policy is trained with."""

from typing import TYPE_CHECKING, Any

from rlhf_game.discovery.expressions import TAU, Expression, evaluate, write

if TYPE_CHECKING:
    from rlhf_game.training_backends.trainers.preferences import PreferenceLoss


def loss_of(expression: Expression) -> "PreferenceLoss":
    """Return the loss that an expression spells; what is one number for the whole batch is every pair's."""
    from rlhf_game.training_backends.trainers.preferences import OPERATIONS, PreferenceLoss, values_of

    def of(batch: Any) -> Any:
        found = evaluate(expression, OPERATIONS, values_of(batch, TAU))
        return (found + 0.0 * batch.margin.detach()) if getattr(found, "ndim", 0) == 0 else found

    return PreferenceLoss("expression", of, write(expression), sees_batch=True)
