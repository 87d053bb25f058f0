"""What a game says against false names: a fee for every name, and what the theorem says of it."""

from typing import Any

from rlhf_game.errors import InputError
from rlhf_game.files.schema import Fields
from rlhf_game.mechanism.fees import false_name_fee, general_false_name_fee


def least_fee(fields: Fields) -> float | None:
    """Return the fee per name at which the theorem says that no owner gains by several, in money; None where none is.

    Rewards are in [0, 1] under normalization sum and max; all names have one weight.
    """
    weights = weights_of(fields)
    if (
        fields.owner_limit is None
        or fields.normalization == "none"
        or len(set(weights)) > 1
        or fields.payment != "affine"
    ):
        return None
    if fields.space != "menu" and fields.regularizer == "kl":
        return false_name_fee(fields.strength, fields.owner_limit, weight=weights[0])
    return general_false_name_fee(fields.owner_limit, weight=weights[0])


def fee_of(fields: Fields) -> float:
    """Return the fee that every name pays; 0 where the game declares none."""
    if isinstance(fields.fee, float):
        return fields.fee
    return 0.0 if fields.fee is None else (least_fee(fields) or 0.0)


def is_false_name_proof(fields: Fields) -> bool:
    """Return whether the fee is one at which the theorem holds."""
    least = least_fee(fields)
    return fields.fee is not None and least is not None and fee_of(fields) >= least


def weights_of(fields: Fields) -> list[float]:
    """Return mu of every group."""
    return [(fields.weights or {}).get(group.name, 1.0) for group in fields.groups]


def check_fee(fields: Fields) -> None:
    """Raise InputError that names the field where a fee has no meaning or a size is above the owner's limit."""
    limit = fields.owner_limit
    for i, group in enumerate(fields.groups):
        if limit is not None and group.size > limit:
            raise InputError(f"groups[{i}].size: must be at most the owner_limit ({limit}), found {group.size}")
    if limit is not None and (fields.size_limit or 0) > limit:
        raise InputError(f"size_limit: must be at most the owner_limit ({limit}), found {fields.size_limit}")
    if fields.fee != "false_name_proof":
        return
    reasons: list[tuple[bool, str, str, Any]] = [
        (limit is None, "owner_limit", "be given with fee false_name_proof", "nothing"),
        (fields.normalization == "none", "normalization", "be sum or max with fee false_name_proof", "none"),
        (len(set(weights_of(fields))) > 1, "weights", "be the same for all with fee false_name_proof", fields.weights),
        (fields.payment != "affine", "payment", "be affine with fee false_name_proof", fields.payment),
    ]
    for is_wrong, field, wanted, found in reasons:
        if is_wrong:
            raise InputError(f"{field}: must {wanted}, found {found}")
