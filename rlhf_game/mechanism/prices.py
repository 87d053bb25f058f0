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

import numpy as np

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.reports import Profile
from rlhf_game.mechanism.spaces.chain import ChainPolicy
from rlhf_game.mechanism.spaces.table import TablePolicy
from rlhf_game.mechanism.training import AffineRule, Trained, TrainingRule


def response_prices(trained: Trained[TrainingRule]) -> list[Array]:
    """Return the price of every outcome of every prompt for every group: B arrays [n, m_b], in units of reward.

    Raises CombinationError where no price is known: for a rule that is no affine maximiser, a regulariser other than
    KL, or a space without a list of outcomes.
    """
    rule, policy = trained.rule, trained.policy
    if not isinstance(rule, AffineRule) or not isinstance(policy, TablePolicy) or policy.space.regularizer.name != "kl":
        raise CombinationError(
            "prices of responses are known for affine maximisers under KL over a table of outcomes, not for "
            f"{type(rule).__name__} on {type(trained.space).__name__}"
        )
    mu = rule.multipliers(len(trained.rewards))
    shares = mu * trained.sizes
    sheets = []
    for k, optimum in enumerate(policy.optima):
        rewards = [reward[k] for reward in trained.rewards]
        values, externalities = optimum.values(rewards), optimum.externalities(shares, rewards)
        table = np.stack(rewards)
        sheets.append(
            (shares[:, None, None] * (table - values[..., None]) + externalities[..., None]) / mu[:, None, None]
        )
    return [sheets[sheet][:, row] for sheet, row in policy.space.layout.places()]


def token_prices(trained: Trained[TrainingRule], sequence: Sequence[int]) -> Array:
    """Return the price of every token of a sequence for every group: [n, tokens]; the sum is that of the response.

    sequence: a whole outcome of an automaton. One more training for each group. Raises CombinationError for another
    space or a rule that is no affine maximiser, InputError when the sequence is not a whole outcome.
    """
    rule, policy, profile = trained.rule, trained.policy, trained.profile
    if not isinstance(rule, AffineRule) or not isinstance(policy, ChainPolicy):
        raise CombinationError(
            "prices of tokens are known for affine maximisers over an automaton, not for "
            f"{type(rule).__name__} on {type(trained.space).__name__}"
        )
    if not policy.is_complete(sequence):
        raise InputError(f"sequence must be a whole outcome, got {list(sequence)}")
    mu = rule.multipliers(len(trained.rewards))
    strength = policy.space.regularizer.strength
    here = _log_tokens(policy, sequence)
    out = np.empty((len(mu), len(sequence)))
    for i, weight in enumerate(mu):
        sizes = np.where(np.arange(len(mu)) == i, 0.0, profile.sizes)
        without = rule.train(Profile(profile.rewards, sizes), trained.space)
        assert isinstance(without, ChainPolicy)  # of the same space
        out[i] = strength / weight * (here - _log_tokens(without, sequence))
    return out


def _log_tokens(policy: ChainPolicy, sequence: Sequence[int]) -> Array:
    return np.array([policy.next_log_probs(sequence[:k])[token] for k, token in enumerate(sequence)])
