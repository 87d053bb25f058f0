"""The tape: proposals in large batches until every prompt has its draws, each text scored once for all groups.

What is asked for in a round depends on the rounds before it alone, and each is kept as soon as it is scored, so an
interrupted tape goes on and becomes the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeAlias, final

import numpy as np

from rlhf_game.errors import RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.partition import worthwhile
from rlhf_game.mechanism.draws.tapes import Problem, acceptances, may_count
from rlhf_game.outcomes.draws.proposals import Counts, Draw, Proposal

ROUND = 3
"""A round takes, besides its proposals, about as long as this part of a full batch of them."""
Score: TypeAlias = Callable[[Sequence[int], Sequence[str]], tuple[Array, Array]]
"""From the prompts and the texts of k distinct responses to every group's scores and rewards, [n, k] each."""

Known: TypeAlias = dict[tuple[int, str], tuple[tuple[float, ...], tuple[float, ...]]]
"""Of a prompt and a text, every group's scores and rewards."""


Columns: TypeAlias = Mapping[str, list[Any]]
"""A round: of each proposal what Proposal has, and every group's scores and rewards where the text is seen first."""


class RoundStore(Protocol):
    """What a finished round is kept in."""

    def read(self) -> Columns | None:
        """Return what was written, or None."""
        ...

    def write(self, columns: Columns, /) -> None:
        """Write it whole."""
        ...


@final
@dataclass(frozen=True, eq=False)
class ProposalRow:
    """One proposal of a tape."""

    proposal: Proposal
    exponential: float
    scores: tuple[float, ...]
    """Of a text that was given up: none."""
    rewards: tuple[float, ...]
    """Not cut at the ceilings; of a text that was given up the most that they could have been."""
    is_accepted: bool


@final
@dataclass(frozen=True, eq=False)
class TapeSettings:
    """What a tape is drawn with."""

    problem: Problem
    propose: Callable[[Sequence[Draw], Counts | None], list[Proposal]]
    score: Score
    exponentials: Callable[[int, int], Array]
    """Of a prompt and a number of proposals: the first numbers -log u of its tape."""
    most: int
    """Proposals to one prompt; a tape that needs more is void."""
    batch_size: int
    keep: Callable[[int], RoundStore] | None = None
    """Of a round's number; None: nothing is kept."""
    bounds: Callable[[Sequence[str]], Array] | None = None
    """From how texts begin to every group's largest possible reward, [n, k]; None: texts are never given up."""

    def draw(self, wanted: Sequence[int], watch: Callable[[int, int], None] | None = None) -> list[list[ProposalRow]]:
        """Return the tape of each prompt, which ends with its ``wanted``-th acceptance; what comes after is discarded.

        watch: called with how many draws there are, and of how many. Raises RunError when a prompt needs more than
        ``most`` proposals: the tape is then void for everybody, and nothing may be charged by it.
        """
        tapes: list[list[ProposalRow]] = [[] for _ in wanted]
        known: Known = {}
        number = 0
        while True:
            accepted = [sum(row.is_accepted for row in tape) for tape in tapes]
            if watch is not None:
                watch(sum(map(min, accepted, wanted)), sum(wanted))
            counts = self._round(accepted, [len(tape) for tape in tapes], wanted)
            if not any(counts):
                return [_until(tape, count) for tape, count in zip(tapes, wanted, strict=True)]
            draws = [(b, len(tapes[b]) + k) for b, count in enumerate(counts) for k in range(count)]
            found = self._asked(number, draws, known)
            for b, count in enumerate(counts):
                if count:
                    tapes[b] += self._rows(b, len(tapes[b]), found[:count], known)
                    found = found[count:]
            number += 1

    def _round(self, accepted: Sequence[int], proposals: Sequence[int], wanted: Sequence[int]) -> list[int]:
        """Return how many proposals each prompt gets in the next round: none where there are enough draws."""
        needs = np.zeros(len(wanted))
        for b, (have, made, want) in enumerate(zip(accepted, proposals, wanted, strict=True)):
            if have >= want:
                continue
            if made == self.most:
                raise RunError(
                    f"outcomes.max_proposals: prompt {b} has {have} of {want} draws after {made} proposals: the run is "
                    "void for everybody and nothing is charged; name more of them, a greater strength, lower ceilings "
                    "or a steeper calibration in a new folder"
                )
            worth = self.batch_size / ROUND / sum(map(int.__lt__, accepted, wanted))
            needs[b] = worthwhile(want - have, (have + 0.5) / (made + 1), self.batch_size, worth)
        room = np.array([self.most - made for made in proposals])
        if needs.sum() > self.batch_size:  # a batch and a few more would take nearly as long as two
            needs *= self.batch_size / needs.sum()
        asked = np.where(needs > 0, np.maximum(needs, 1), 0).astype(int)
        return [int(count) for count in np.minimum(asked, room)]

    def _asked(
        self,
        number: int,
        draws: Sequence[Draw],
        known: Known,
    ) -> list[Proposal]:
        """Return the proposals of a round; ``known`` then has what all their texts are worth."""
        kept = None if self.keep is None else self.keep(number)
        found = None if kept is None else kept.read()
        if found is None:
            found = self._new_round(draws, known)
            if kept is not None:
                kept.write(found)
        keys = [(b, text) for (b, _), text in zip(draws, found["text"], strict=True)]
        worth = zip(keys, found["scores"], found["rewards"], strict=True)
        known.update({key: (tuple(mine), tuple(theirs)) for key, mine, theirs in worth if mine is not None})
        return [Proposal(*values) for values in zip(*(found[field.name] for field in fields(Proposal)), strict=True)]

    def _new_round(self, draws: Sequence[Draw], known: Known) -> Columns:
        """Return a round that is drawn and scored now."""
        proposals = self.propose(draws, self._counts(draws))
        keys = [(b, one.text) if one.is_whole else None for (b, _), one in zip(draws, proposals, strict=True)]
        new = [key for key in dict.fromkeys(keys) if key is not None and key not in known]
        worth: dict[tuple[int, str] | None, tuple[list[float], list[float]]] = {}
        if new:
            scores, rewards = self.score([b for b, _ in new], [text for _, text in new])
            worth = dict(zip(new, zip(scores.T.tolist(), rewards.T.tolist(), strict=True), strict=True))
        first = [worth.pop(key, (None, None)) for key in keys]
        found: dict[str, list[Any]] = {
            field.name: [getattr(one, field.name) for one in proposals] for field in fields(Proposal)
        }
        return {**found, "scores": [mine for mine, _ in first], "rewards": [theirs for _, theirs in first]}

    def _counts(self, draws: Sequence[Draw]) -> Counts | None:
        """Return what says which of a round's texts may still count, while they are written."""
        if self.bounds is None:
            return None
        bounds = self.bounds
        longest = {b: j + 1 for b, j in sorted(draws)}
        known = {b: self.exponentials(b, count) for b, count in longest.items()}
        waits = np.array([known[b][j] for b, j in draws])
        return lambda places, texts: may_count(self.problem, bounds(texts), waits[list(places)])

    def _rows(
        self,
        prompt: int,
        start: int,
        proposals: Sequence[Proposal],
        known: Known,
    ) -> list[ProposalRow]:
        waits = self.exponentials(prompt, start + len(proposals))[start:]
        worth = [known[prompt, one.text] if one.is_whole else self._given_up(one.text) for one in proposals]
        is_accepted = acceptances(self.problem, np.transpose([rewards for _, rewards in worth]), waits)
        return [
            ProposalRow(proposal, float(wait), scores, rewards, bool(accepted))
            for proposal, wait, (scores, rewards), accepted in zip(proposals, waits, worth, is_accepted, strict=True)
        ]

    def _given_up(self, text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        assert self.bounds is not None
        return (), tuple(self.bounds([text])[:, 0].tolist())


def _until(tape: Sequence[ProposalRow], draws: int) -> list[ProposalRow]:
    """Return the rows up to the last of the draws."""
    left = draws
    for j, row in enumerate(tape):
        left -= row.is_accepted
        if left == 0:
            return list(tape[: j + 1])
    raise AssertionError("the tape has its draws")
