"""From a game file to a settlement: the policy space, the mechanism and the groups that a game names."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.files.fee_fields import fee_of
from rlhf_game.files.games import Game
from rlhf_game.files.parts import split
from rlhf_game.files.schema import LARGEST, Fields, explain
from rlhf_game.files.tables import largest
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Mechanism, Settlement
from rlhf_game.mechanism.participation import Participation
from rlhf_game.mechanism.payments import AffinePayments, NoPayments, PaymentRule, WithFee
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.reports import Group, Profile
from rlhf_game.mechanism.several import ModelPayments, SeveralModels
from rlhf_game.mechanism.spaces.base import PolicySpace
from rlhf_game.mechanism.training import AffineRule, TrainingRule
from rlhf_game.registry import find

T = TypeVar("T")


def build(game: Game) -> tuple[PolicySpace[Any], Mechanism, list[Group]]:
    """Return what a game is made of: the space, the mechanism, and the groups in the order of the file.

    Raises InputError that names the file when the numbers do not make a space (a reference that does not sum to 1) or
    the payment rule does not fit.
    """
    regularizer = _regularizer(game)
    fields = game.fields
    own = partial(own_part, game.folder, game.name)
    space = _at(game.name, "", partial(fields.make_space, game.reference, regularizer, own))
    training = _training(game)
    payment = make("payment", game.fields.payment, game.folder, game.name)
    if game.fields.models is not None or game.fields.training_cost is not None:
        training, payment = _at(game.name, "", partial(_several, game.fields, space, training, payment))
    if game.fields.participation_cost is not None:
        training = _participation(game, training)
    if fee_of(game.fields) > 0:
        payment = WithFee(payment, fee_of(game.fields))
    mechanism = _at(game.name, "", lambda: Mechanism(training, payment).fitted(space))
    groups = [
        Group(group.name, reward, group.size) for group, reward in zip(game.fields.groups, game.rewards, strict=True)
    ]
    return space, mechanism, groups


def _several(
    fields: Fields, space: PolicySpace[Any], training: TrainingRule, payment: PaymentRule[Any]
) -> tuple[TrainingRule, PaymentRule[Any]]:
    """Return the rules by which it is also chosen which models are trained, if any."""
    field = "training_cost" if fields.models is None else "models"
    if fields.models is not None and fields.training_cost is not None:
        raise InputError("training_cost: must be left out with models, whose cost it is; found both")
    if space.running is not space:
        raise InputError(f"{field}: must come with a game that misses no outcomes, found one with missing")
    if not isinstance(training, AffineRule) or training.boosts():
        raise InputError(f"{field}: must come with training social_welfare or affine without boosts, found another")
    if type(payment) not in (AffinePayments, NoPayments):
        raise InputError(f"{field}: must come with payment affine or none, found another")
    if fields.models is None:
        rule = SeveralModels(training, 1, fields.training_cost or 0.0)
    else:
        rule = SeveralModels(training, min(fields.models.at_most, len(fields.groups)), fields.models.cost)
    return rule, payment if payment.is_free else ModelPayments()


def _participation(game: Game, training: TrainingRule) -> TrainingRule:
    if not isinstance(training, AffineRule) or game.fields.limits is not None:
        raise InputError(
            f"{game.name}: payment: participation must come with an affine maximiser over outcomes that are all there"
        )
    return Participation(training, game.fields.participation_cost or 0.0)


def settle(game: Game) -> Settlement:
    """Return the settlement of a game. Raises InputError that names the file and the group (see build)."""
    space, mechanism, groups = build(game)
    profile = _profile(game, space, groups)
    return _settle(game, mechanism, profile, space)


def settle_without(game: Game) -> tuple[Settlement, Array]:
    """Return the settlement, and each group's value <p, r_i> under the policy that is trained without it: [n].

    One more training per group: for tables that people read.
    """
    space, mechanism, groups = build(game)
    profile = _profile(game, space, groups)
    values = _at(
        game.name, "", partial(_values_without, mechanism, profile, space)
    )  # first, to hold one policy at a time
    return _settle(game, mechanism, profile, space), values


def _values_without(mechanism: Mechanism, profile: Profile[Any], space: PolicySpace[Any]) -> Array:
    values = np.empty(len(profile.sizes))
    with np.errstate(all="ignore"):
        for i, reward in enumerate(profile.rewards):
            others = np.where(np.arange(len(values)) == i, 0.0, profile.sizes)
            trained = Profile(profile.rewards, others)
            # unnamed, so that it is gone before the next one is trained: each holds a vector of outcomes
            values[i] = mechanism.training.train(trained, space).model_of(i).values([reward])[0]
    return values


def _profile(game: Game, space: PolicySpace[Any], groups: list[Group]) -> Profile[Any]:
    rewards = [
        _at(game.name, f"groups[{i}].reward", partial(space.read, group.reward)) for i, group in enumerate(groups)
    ]
    _check_amounts(game)
    return Profile(tuple(rewards), np.array([group.size for group in groups], dtype=np.float64))


def _check_amounts(game: Game) -> None:
    """Refuse amounts whose squares, or whose multiples of the strength, float64 cannot hold."""
    fields = game.fields
    weights = _weights(fields) or [1.0] * len(fields.groups)
    steps = fields.steps
    amounts = [
        (f"groups[{i}].reward", weight * group.size * steps, reward)
        for i, (group, weight, reward) in enumerate(zip(fields.groups, weights, game.rewards, strict=True))
    ]
    if fields.limits is not None:  # what rewards may be where they are not given
        most = max(factor for _, factor, _ in amounts)
        amounts.append(("bounds", most, np.array(fields.limits)))
    for field, factor, table in amounts if game.boost is None else [*amounts, ("boosts", float(steps), game.boost)]:
        amount = factor * largest(table)
        if not max(amount, amount / fields.strength) <= LARGEST:
            raise InputError(
                f"{game.name}: {field}: must be at most {LARGEST} when multiplied by size and weight, also when "
                f"divided by the strength; found {max(amount, amount / fields.strength):.3g}"
            )


def _settle(game: Game, mechanism: Mechanism, profile: Profile[Any], space: PolicySpace[Any]) -> Settlement:
    """Settle; a result that float64 cannot hold is the input's fault, and is said so instead of NaN."""
    with np.errstate(all="ignore"):
        settlement = _at(game.name, "", partial(mechanism.settle_profile, profile, space))
        numbers: list[ArrayLike] = [settlement.values, settlement.payments, settlement.utilities]
        numbers += [settlement.social_welfare, settlement.policy.welfare, settlement.policy.divergence]
    if not all(np.all(np.isfinite(number)) for number in numbers):
        raise InputError(f"{game.name}: groups: must have results that float64 can hold, found some that overflow it")
    return settlement


def own_part(base: Path, name: str, role: str, said: Any, given: Mapping[str, Any]) -> Any:
    """Return a part of someone's own (see make). given: what the file says elsewhere, for its fields of these names."""
    called, _ = split(role, said)
    part = _at(f"{name}: {role}", "", lambda: find(role, called, base))
    known = {key: value for key, value in given.items() if key in inspect.signature(part).parameters}
    return make(role, said, base, name, known)


def _regularizer(game: Game) -> Regularizer:
    return regularizer_of(game.fields.regularizer or "kl", game.fields.strength, game.folder, game.name)


def _training(game: Game) -> TrainingRule:
    """Return the training rule; weights and boosts of the game go to the rule's own fields of these names."""
    given = {"weights": _weights(game.fields), "boost": game.boost}
    is_plain = all(value is None for value in given.values())
    said = game.fields.training or ("social_welfare" if is_plain else "affine")
    return make("training", said, game.folder, game.name, given)  # type: ignore[no-any-return]


def regularizer_of(said: Any, strength: float, base: Path, name: str) -> Regularizer:
    """Return the regulariser that a file names, at a strength. Raises InputError that starts with ``name``."""
    return make("regularizer", said, base, name, {"strength": strength})  # type: ignore[no-any-return]


def make(role: str, said: Any, base: Path, name: str, given: Mapping[str, Any] | None = None) -> Any:
    """Return the part that a file names, made from its own fields.

    said: its name or mapping (``SomePayment`` and the like). base: the folder that paths start from. given: values for
    fields of these names that the file says elsewhere; None is left out. Raises InputError that starts with ``name``
    and the field, also when the part has no such field.
    """
    called, own = split(role, said)
    part = _at(f"{name}: {role}", "", lambda: find(role, called, base))
    model = _fields_of(part, frozenset(given or {}))
    own = _checked_fields(model, own, name, role)
    known = inspect.signature(part).parameters
    for key, value in (given or {}).items():
        if value is not None and key not in known:
            raise InputError(f"{name}: {key}: must be left out with {role} {called}, which has no such field")
        if value is not None:
            own[key] = value
    try:
        return _at(f"{name}: {role}", "", lambda: part(**own))
    except TypeError as error:  # an abstract method that is missing
        raise InputError(f"{name}: {role}: {error}") from error


def _checked_fields(model: type[BaseModel], own: Mapping[str, Any], name: str, role: str) -> dict[str, Any]:
    try:
        checked = model.model_validate(dict(own))
    except ValidationError as error:
        explain(error, name, model, (role,))
    return {key: getattr(checked, key) for key in checked.model_fields_set}


def _fields_of(part: type, given: frozenset[str]) -> type[BaseModel]:
    """Return a strict model of the fields that a part is made of, without those that are given elsewhere."""
    try:
        hints = get_type_hints(inspect.getattr_static(part, "__init__"), include_extras=True)
    except NameError:  # an annotation that only type checkers know
        hints = {}
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(part).parameters.items():
        if key not in given and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[key] = (hints.get(key, Any), default)
    rules = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
    return create_model(part.__name__, __config__=rules, **fields)


def _weights(fields: Fields) -> list[float] | None:
    if fields.weights is None:
        return None
    return [fields.weights.get(group.name, 1.0) for group in fields.groups]


def _at(name: str, field: str, do: Callable[[], T]) -> T:
    """Return do(); an error about the input then starts with the file and the field.

    What the mechanism calls its field (``reward[2]``) gives way to ``field``, if any, and keeps its place (``[2]``).
    """
    try:
        return do()
    except (InputError, CombinationError) as error:
        called, bracket, place = error.field.partition("[")
        if not (called.isidentifier() and called.islower()):  # a class, or several words
            raise InputError(f"{name}: {field + ': ' if field else ''}{error}") from error
        raise InputError(f"{name}: {field or called}{bracket}{place}: {error.rest}") from error
