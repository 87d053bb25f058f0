r"""What each single response costs each group: prices whose mean over the policy is the bill.

Under KL, price_i(y) = (strength / mu_i) log p(y) / p_-i(y) (derived). With g_i = mu_i w_i, p_-i is proportional to
p exp(-g_i r_i / strength), so on one prompt

    price_i(y) = (1 / mu_i) [g_i (r_i(y) - <p, r_i>) + externality_i] = w_i r_i(y) - utility_i,

where the externality and the utility are those of the prompt: the mean of the price is the bill, and after every
response the group is left with the same utility. A price may be negative: a rebate for what the group did not want.
Capping prices at 0 would break truthfulness. Token by token along a sequence the prices
(strength / mu_i) log p(a | prefix) / p_-i(a | prefix) add up to that of the response.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.reports import Profile
from rlhf_game.mechanism.training import AffineRule, Trained, TrainingRule


def response_prices(trained: Trained[TrainingRule]) -> list[Array]:
    """Return the price of every outcome of every prompt for every group: B arrays [n, m_b], in units of reward.

    Raises CombinationError where no price is known: for a rule that is no affine maximiser, a regulariser other than
    KL, or a space without a list of outcomes.
    """
    _maximiser(trained)
    prices = trained.policy.prices(trained.shares, trained.rewards)
    return [table / trained.weights[:, None] for table in prices]


def prices_of(trained: Trained[TrainingRule], outcomes: Sequence[Any], prompt: int = 0) -> Array:
    """Return the prices of some outcomes of a prompt, by label or, without labels, by place: [n, k].

    Raises as ``response_prices``, and InputError that names what is no outcome of the prompt.
    """
    prices = response_prices(trained)
    table: Any = trained.space.running  # whose outcomes are listed, or there were no prices
    labels = table.labels(prompt) or range(prices[prompt].shape[1])
    for outcome in outcomes:
        if outcome not in labels:
            raise InputError(f"must be outcomes of prompt {prompt}, got {outcome!r}", field="outcomes")
    return prices[prompt][:, [labels.index(outcome) for outcome in outcomes]]


def token_prices(trained: Trained[TrainingRule], sequence: Sequence[int], prompt: int = 0) -> Array:
    """Return the price of every token of a sequence for every group: [n, tokens]; the sum is that of the response.

    sequence: a whole outcome of an automaton or a trie, or a response of a trained model, to a prompt by its place. One
    more training for each group. Of a trained model the mean of the prices is (strength / mu) KL(p || p_-i), the bill
    where both are trained to the optimum. Raises CombinationError for a space whose outcomes are no sequences or a rule
    that is no affine maximiser, InputError when the sequence is not a whole outcome.
    """
    rule, rewards = _maximiser(trained), trained.rewards
    here = trained.policy.log_tokens(sequence, prompt)
    out = np.empty((len(trained.weights), len(sequence)))
    for i, weight in enumerate(trained.weights):
        sizes = np.where(np.arange(len(out)) == i, 0.0, trained.profile.sizes)
        without = rule.train(Profile(rewards, sizes), trained.space)
        out[i] = trained.space.strength / weight * (here - without.log_tokens(sequence, prompt))
    return out


def _maximiser(trained: Trained[TrainingRule]) -> AffineRule:
    if not isinstance(trained.rule, AffineRule):
        raise CombinationError(f"prices are known for affine maximisers, not for {type(trained.rule).__name__}")
    return trained.rule
