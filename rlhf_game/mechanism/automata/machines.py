"""A reference and rewards as automata over the same tokens, and the one automaton in which all of them run at once."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.mechanism.spaces.chain import END, Chain

States = NDArray[np.int64]
State = TypeVar("State", bound=Hashable)


@final
@dataclass(frozen=True, eq=False)
class Reference:
    """A model of sequences: next_state [S][T], END (-1) where the sequence ends, and token probabilities [S][T]."""

    next_state: States
    probabilities: Array
    initial: int = 0


@final
@dataclass(frozen=True, eq=False)
class RewardMachine:
    """A reward of sequences: next_state [S][T] (it never ends), and what each token earns, [S][T]."""

    next_state: States
    reward: Array
    initial: int = 0

    def along(self, sequence: Sequence[int]) -> float:
        """Return the reward of a sequence of tokens."""
        state, total = self.initial, 0.0
        for token in sequence:
            total += float(self.reward[state, token])
            state = int(self.next_state[state, token])
        return total


@final
@dataclass(frozen=True, eq=False)
class Combined:
    """A reference and rewards on one automaton, whose states are the tuples of states that can be reached."""

    reference: Reference
    rewards: tuple[Array, ...]
    """One per reward automaton: [S][T], as a chain's reports are."""

    def chain(
        self, regularizer: Regularizer, *, horizon: int, normalization: Normalization | str = Normalization.NONE
    ) -> Chain:
        """Return the policy space over the sequences of at most ``horizon`` tokens."""
        return Chain(
            self.reference.next_state,
            self.reference.probabilities,
            regularizer,
            horizon=horizon,
            initial=self.reference.initial,
            normalization=normalization,
        )


def combine(reference: Reference, earnings: Sequence[RewardMachine]) -> Combined:
    """Return the product of the automata: what each earns along a sequence is the same as on its own.

    Only tuples of states that some sequence reaches are built. Raises InputError when the alphabets differ in size.
    """
    tokens = reference.next_state.shape[1]
    for i, earning in enumerate(earnings):
        if earning.next_state.shape[1] != tokens:
            raise InputError(f"must be over {tokens} tokens, got {earning.next_state.shape[1]}", field=f"rewards[{i}]")
    parts = [reference.next_state, *(earning.next_state for earning in earnings)]
    sizes = [len(part) for part in parts]
    start = (reference.initial, *(earning.initial for earning in earnings))
    reached, places = [start], {start: 0}
    following = []
    for here in reached:  # grows while it is read
        targets = np.stack([part[state] for part, state in zip(parts, here, strict=True)])
        ended = targets[0] == END
        keys = np.ravel_multi_index(tuple(np.where(ended, 0, targets)), tuple(sizes))
        distinct, inverse = np.unique(keys, return_inverse=True)
        numbers = np.empty(len(distinct), dtype=np.int64)
        going = np.zeros(len(distinct), dtype=bool)
        going[inverse[~ended]] = True
        for j in np.flatnonzero(going):
            there = tuple(int(state) for state in np.unravel_index(distinct[j], tuple(sizes)))
            if there not in places:
                places[there] = len(reached)
                reached.append(there)
            numbers[j] = places[there]
        following.append(np.where(ended, END, numbers[inverse]))
    own = list(zip(*reached, strict=True))
    rewards = tuple(earning.reward[list(own[i + 1])] for i, earning in enumerate(earnings))
    return Combined(Reference(np.stack(following), reference.probabilities[list(own[0])]), rewards)


def lift(
    start: State, step: Callable[[State, str], tuple[State, float]], alphabet: Sequence[str]
) -> tuple[RewardMachine, list[State]]:
    """Return a machine that reads characters as one that reads tokens, and the states in its order.

    step: (state, character) to the next state and what the character earns. A token earns what its characters earn; an
    empty token (a special one) earns nothing and changes nothing. Only states at the boundaries of tokens are kept.
    """
    memo: dict[tuple[State, str], tuple[State, float]] = {}
    reached, places = [start], {start: 0}
    following, rewards = [], []
    for here in reached:  # grows while it is read
        row = np.empty(len(alphabet), dtype=np.int64)
        earned = np.zeros(len(alphabet))
        for token, text in enumerate(alphabet):
            state = here
            for character in text:
                move = memo.get((state, character))
                if move is None:
                    move = memo[state, character] = step(state, character)
                state, gain = move
                earned[token] += gain
            if state not in places:
                places[state] = len(reached)
                reached.append(state)
            row[token] = places[state]
        following.append(row)
        rewards.append(earned)
    return RewardMachine(np.stack(following), np.stack(rewards)), reached
