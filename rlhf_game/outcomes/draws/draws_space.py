"""Exact draws of the optimum as a policy space: settle in Python, then serve new prompts and price new responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError, RunError, boundary
from rlhf_game.files.conversations import Text
from rlhf_game.files.documents import shown
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.settlement import DrawsSettlement, settle_tapes
from rlhf_game.mechanism.draws.tapes import Problem, Tape, averaged_utilities, cut, tape_utilities
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.sampled.betting import betting_interval
from rlhf_game.mechanism.sampled.estimates import Estimate
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.outcomes.draws.drawing import ProposalRow, TapeSettings
from rlhf_game.outcomes.draws.proposals import Counts, Draw, Proposal
from rlhf_game.rewards.texts import TextReward, call_reward, is_pointwise


class ReferenceSampler(Protocol):
    """Whatever draws from the reference: independent texts, one for each prompt it is given (the same one, often)."""

    def __call__(self, prompts: Sequence[Text], rng: np.random.Generator, /) -> Sequence[str]:
        """Return a text for each prompt."""
        ...


@final
@dataclass(frozen=True, eq=False)
class DrawnReward:
    """A reward as the space reads it: in [0, ceiling] after its floor is taken away and the rest cut."""

    reward: TextReward
    floor: float
    ceiling: float


@final
class Draws(PolicySpace[DrawnReward]):
    """All policies over all texts of a language model, known through exact draws of the optimum.

    prompts: [B]. write: draws from the reference. draws: T, of each prompt; max_proposals: to one prompt, after which
    the settlement is void for everybody (RunError). rng: where everything random comes from; it must not be known to
    anybody who reports. ceiling: the most that a reward counts, 1 or less. boost_bounds: what a boost keeps to.
    columns, prompt_weights: as of ``Candidates``. A report's reward is a function with TRL's signature into [0, 1].

    A settlement over this space has unbiased estimates in place of values, payments and welfare; its policy's ``drawn``
    has their intervals. Every settlement draws anew. Raises InputError where the regulariser is not KL.
    """

    def __init__(
        self,
        prompts: Sequence[Text],
        write: ReferenceSampler,
        regularizer: Regularizer,
        *,
        draws: int,
        max_proposals: int,
        rng: np.random.Generator,
        ceiling: float = 1.0,
        boost_bounds: tuple[float, float] = (0.0, 0.0),
        columns: Mapping[str, Sequence[Any]] | None = None,
        prompt_weights: ArrayLike | None = None,
        batch_size: int = 256,
        level: float = 0.95,
    ) -> None:
        if not getattr(regularizer, "is_entropic", False):
            raise InputError(f"regularizer must be KL: only its optimum can be drawn by rejection, got {regularizer!r}")
        if not prompts:
            raise InputError("prompts must be at least one, got none")
        for name, number in (("draws", draws), ("max_proposals", max_proposals), ("batch_size", batch_size)):
            if number < 1:
                raise InputError(f"{name} must be >= 1, got {number}")
        if not 0 < ceiling <= 1:
            raise InputError(f"ceiling must be above 0 and at most 1, got {ceiling}")
        self.prompts = tuple(prompts)
        self.write = write
        self.strength = float(regularizer.strength)
        self.draws = draws
        self.max_proposals = max_proposals
        self.rng = rng
        self.ceiling = ceiling
        self.boost_bounds = boost_bounds
        self.columns = {name: tuple(values) for name, values in (columns or {}).items()}
        self.prompt_weights = prompt_weights
        self.batch_size = batch_size
        self.level = level

    @classmethod
    def of_model(
        cls,
        model: str,
        prompts: Sequence[Text],
        regularizer: Regularizer,
        *,
        draws: int,
        max_proposals: int,
        rng: np.random.Generator,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        system: str | None = None,
        ceiling: float = 1.0,
        base: Path | None = None,
    ) -> "Draws":
        """Return the space over all texts of a language model. model: see ``training_backends.lm.checkpoints``."""
        from rlhf_game.training_backends import Sampling, load_language_model
        from rlhf_game.training_backends.lm.sampling import sample_batch

        loaded, how = load_language_model(model, base=base), Sampling(max_new_tokens, temperature)

        def write(asked: Sequence[Text], rng: np.random.Generator) -> list[str]:
            texts = list(dict.fromkeys(asked))
            encoded = [loaded.encode_prompt(text, system) for text in texts]
            batch = [(texts.index(text), j) for j, text in enumerate(asked)]
            drawn = sample_batch(loaded, encoded, batch, seed=int(rng.integers(2**63)), sampling=how)
            return [one.text for one in drawn]

        return cls(prompts, write, regularizer, draws=draws, max_proposals=max_proposals, rng=rng, ceiling=ceiling)

    def read(self, reward: TextReward) -> DrawnReward:
        """Return a reward; raise InputError when it is no function of texts, or ranks responses among others."""
        if not callable(reward) or not is_pointwise(reward):
            raise InputError("reward must be a function of prompts and completions, each of which it scores by itself")
        return DrawnReward(reward, 0.0, self.ceiling)

    def read_boost(self, boost: TextReward) -> DrawnReward:
        """Return what the provider adds to the score, within the declared bounds."""
        low, high = self.boost_bounds
        if not low < high:
            raise InputError(f"boost_bounds must be what the boost keeps to, the lower first, got {self.boost_bounds}")
        return DrawnReward(boost, low, high - low)

    def maximize(self, weights: Array, rewards: Sequence[DrawnReward]) -> "DrawsPolicy":
        """Draw from argmax_p <p, s> - strength * KL(p || q). Raises RunError when a prompt needs too many proposals."""
        kept = [i for i, weight in enumerate(weights) if weight != 0]
        shares, asked = np.asarray(weights, dtype=np.float64)[kept], [rewards[i] for i in kept]
        problem = Problem(shares, np.ones(len(kept)), self.strength, np.array([one.ceiling for one in asked]))
        rows = self.drawing(problem, asked, self.prompts, self.columns, self.rng).draw([self.draws] * len(self.prompts))
        return DrawsPolicy(self, problem, asked, rows)

    def written(self, prompts: Sequence[Text], rng: np.random.Generator) -> list[str]:
        """Return a text of the reference for each prompt; raises RunError where ``write`` fails or returns no such."""
        with boundary("write failed"):
            texts = list(self.write(prompts, rng))
        if len(texts) != len(prompts) or not all(isinstance(text, str) for text in texts):
            raise RunError(f"write must return {len(prompts)} texts, one for each prompt, got {shown(repr(texts), 80)}")
        return [str(text) for text in texts]

    def drawing(
        self,
        problem: Problem,
        rewards: Sequence[DrawnReward],
        prompts: Sequence[Text],
        columns: Mapping[str, Sequence[Any]],
        rng: np.random.Generator,
    ) -> TapeSettings:
        """Return how a tape is drawn for these prompts."""
        waits = [stream.standard_exponential for stream in rng.spawn(len(prompts))]
        known = [np.zeros(0) for _ in prompts]

        def exponentials(prompt: int, count: int) -> Array:
            known[prompt] = np.append(known[prompt], waits[prompt](max(0, count - len(known[prompt]))))
            return known[prompt][:count]

        def propose(wanted: Sequence[Draw], counts: Counts | None) -> list[Proposal]:
            return [Proposal(text, 0, True) for text in self.written([prompts[b] for b, _ in wanted], rng)]

        score = partial(_scores, rewards, prompts, columns)
        return TapeSettings(problem, propose, score, exponentials, self.max_proposals, self.batch_size)


def _scores(
    rewards: Sequence[DrawnReward],
    prompts: Sequence[Text],
    columns: Mapping[str, Sequence[Any]],
    places: Sequence[int],
    texts: Sequence[str],
) -> tuple[Array, Array]:
    """Return the scores, and how far each is above its floor: [n, k] each."""
    asked, beside = [prompts[b] for b in places], {name: [of[b] for b in places] for name, of in columns.items()}
    scores = np.stack([call_reward(one.reward, asked, texts, beside) for one in rewards])
    above = scores - np.array([one.floor for one in rewards])[:, None]
    tops = np.array([max(1.0, one.ceiling) for one in rewards])[:, None]
    wrong = (above < 0) | (above > tops)
    if wrong.any():
        raise InputError(
            f"reward must be in its declared range, [0, 1] unless it is a boost, got {scores[wrong][0]:.6g}; put a "
            "calibration around it"
        )
    return scores, above


@final
class DrawsPolicy(Policy[DrawnReward]):
    """The optimum, known through draws of it: values, externalities, welfare and divergence are unbiased estimates."""

    def __init__(
        self, space: Draws, problem: Problem, rewards: Sequence[DrawnReward], rows: Sequence[Sequence[ProposalRow]]
    ) -> None:
        self.space: Draws = space
        self._problem = problem
        self._rewards = tuple(rewards)
        self.tapes = tuple(_tape(problem, tape, space.draws) for tape in rows)
        self.responses = tuple(tuple(row.proposal.text for row in tape if row.is_accepted) for tape in rows)
        """The draws of each prompt: [B][T]."""
        self.drawn: DrawsSettlement = settle_tapes(
            self.tapes, space.draws, prompt_weights=space.prompt_weights, level=space.level
        )
        """What is known of each trained reward, with intervals; payments in units of score (before weights)."""
        self.welfare = float(self.drawn.affine_welfare.value) + float(
            sum(share * one.floor for share, one in zip(problem.shares, rewards, strict=True))
        )
        self.divergence = float(self.drawn.divergence.value)
        self.gap = 0.0

    def values(self, rewards: Sequence[DrawnReward]) -> Array:
        """Return the mean of each reward over the draws: [k]."""
        return np.array([self._value(reward) for reward in rewards])

    def externalities(self, weights: Array, rewards: Sequence[DrawnReward]) -> Array:
        """Return the bills, in units of score: [k]. Only parts of the score that it was trained on have one.

        Raises InputError for any other pair: what it costs to take it away cannot be told from this tape.
        """
        found = []
        for weight, reward in zip(np.asarray(weights, dtype=np.float64), rewards, strict=True):
            if weight == 0:
                found.append(0.0)
                continue
            at = [i for i, one in enumerate(self._rewards) if one is reward and self._problem.sizes[i] == weight]
            if not at:
                raise InputError("weights and rewards must be parts of the score that was trained on, got another")
            found.append(float(self.drawn.payments.value[at[0]]))
        return np.array(found)

    def sample(
        self,
        prompt: Text,
        rng: np.random.Generator,
        *,
        candidates: int | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a response to any prompt, drawn from exactly the optimum for the settled reports.

        candidates: draw so many fresh responses of the reference instead and pick one by exp(s / strength): close to
        the optimum, and never more than so many proposals. columns: the prompt's further columns.
        """
        beside = {name: [value] for name, value in (columns or {}).items()}
        if candidates is None:
            drawing = self.space.drawing(self._problem, self._rewards, [prompt], beside, rng)
            return drawing.draw([1])[0][-1].proposal.text
        if candidates < 1:
            raise InputError(f"candidates must be >= 1, got {candidates}")
        texts = self.space.written([prompt] * candidates, rng)
        _, rewards = _scores(self._rewards, [prompt], beside, [0] * candidates, texts)
        capped = np.minimum(rewards, self._problem.ceilings[:, None])
        score = self._problem.shares @ capped / self._problem.strength
        chances = np.exp(score - score.max())
        return texts[int(rng.choice(candidates, p=chances / chances.sum()))]

    def price(
        self,
        prompt: Text,
        response: str,
        rng: np.random.Generator,
        *,
        draws: int = 16,
        columns: Mapping[str, Any] | None = None,
    ) -> Estimate:
        """Return what each trained reward's group owes for one response to any prompt, in units of score: [n].

        (strength) log p*(y) / p_-i(y) = g_i r_i(y) less the utility of that prompt, which a tape of ``draws`` draws
        estimates without bias, with an interval. Its mean over responses of the optimum is the bill.
        """
        beside = {name: [value] for name, value in (columns or {}).items()}
        rows = self.space.drawing(self._problem, self._rewards, [prompt], beside, rng).draw([draws])[0]
        tape, most = _tape(self._problem, rows, draws), self._problem.shares * self._problem.ceilings
        _, rewards = _scores(self._rewards, [prompt], beside, [0], [response])
        worth = self._problem.shares * np.minimum(rewards[:, 0], self._problem.ceilings)
        left = averaged_utilities(tape)
        ends = betting_interval(tape_utilities(tape), (0.0 * most, most), self.space.level)
        low, high = np.minimum(ends.low, left), np.maximum(ends.high, left)
        return Estimate(worth - left, worth - high, worth - low, self.space.level)

    def _value(self, reward: DrawnReward) -> float:
        for i, one in enumerate(self._rewards):
            if one is reward:
                return float(self.drawn.values.value[i]) + reward.floor
        means = []
        for b, texts in enumerate(self.responses):
            beside = {name: [values[b]] for name, values in self.space.columns.items()}
            _, found = _scores([reward], [self.space.prompts[b]], beside, [0] * len(texts), texts)
            means.append(np.minimum(found[0], reward.ceiling).mean())
        weights = (
            np.full(len(means), 1.0) if self.space.prompt_weights is None else np.asarray(self.space.prompt_weights)
        )
        return float(np.average(means, weights=weights)) + reward.floor


def _tape(problem: Problem, rows: Sequence[ProposalRow], draws: int) -> Tape:
    found = cut(problem, np.transpose([row.rewards for row in rows]), [row.exponential for row in rows], draws)
    assert found is not None  # the drawing ends with its last draw
    return found
