"""What a receipt says of privacy: what served responses tell of each group's reward, where that is known."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, final

from rlhf_game.files.games import Game
from rlhf_game.files.policies import is_long
from rlhf_game.files.schema import Strict
from rlhf_game.files.tables import prompts_of
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Settlement
from rlhf_game.mechanism.privacy import Privacy, privacy


@final
class PrivacyFields(Strict):
    """What served responses tell of a group's reward, in nats (rlhf_game.mechanism.privacy)."""

    epsilon: float | None = None
    """Of one response; None where no domain is declared, so that nothing bounds a reward."""
    epsilon_leaving: float | None = None
    epsilon_of_each_prompt: float | None = None
    """Of one response to each prompt, together."""
    realised_loss: float | None
    """None where p is not known."""


def table_privacy(
    policies: Sequence[Array], rewards: Sequence[Array], share: float, strength: float, is_bounded: bool
) -> PrivacyFields:
    """Return the privacy of a group of a table under KL; a declared domain bounds its reward by 0 and 1."""
    found = privacy(policies, rewards, share=share, strength=strength, span=1.0 if is_bounded else None)
    return fields_of(found, len(policies))


def fields_of(found: Privacy, prompts: int) -> PrivacyFields:
    """Return what a receipt says of one group."""
    return PrivacyFields(**asdict(found), epsilon_of_each_prompt=found.after(prompts))


def privacies_of(game: Game, settlement: Settlement) -> list[PrivacyFields] | None:
    """Return the privacy of each group of a settled table; None where it is not the optimum of all under KL.

    Neither is it there for policies that are too long for a receipt.
    """
    fields, trained = game.fields, settlement.trained
    policy: Any = settlement.policy  # of a table, from where its probabilities are asked for
    is_entropic = getattr(getattr(settlement.space, "regularizer", None), "is_entropic", False)
    is_of_all = policy.takes_part is None and policy.parts is None
    if is_long(game) or not (fields.is_whole_table and is_entropic and is_of_all and trained.is_affine):
        return None
    policies, is_bounded = prompts_of(policy.probabilities), fields.normalization != "none"
    return [
        table_privacy(policies, prompts_of(reward), float(share), fields.strength, is_bounded)
        for reward, share in zip(game.rewards, trained.shares, strict=True)
    ]
