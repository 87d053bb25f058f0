"""Before anything is spent: a pilot of reference draws, and what each kind of outcome would take and prove.

Nothing is written. The pilot's texts stand for all texts: expectations are those of drawing from them again and again.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.settlement import settle_tapes
from rlhf_game.mechanism.draws.tapes import Problem, Tape, cut
from rlhf_game.mechanism.regularizers.kl import KL
from rlhf_game.mechanism.sampled.certificates import certified_payments
from rlhf_game.mechanism.sampled.estimates import student_interval
from rlhf_game.mechanism.spaces.table import Table
from rlhf_game.outcomes.draws.draws_spec import DrawsSpec
from rlhf_game.outcomes.draws.proposals import TextSampling, open_proposer
from rlhf_game.outcomes.finetuned.finetuned_spec import FinetunedSpec
from rlhf_game.outcomes.run_config import CandidatesSpec, Configuration, TrieSpec
from rlhf_game.outcomes.scoring import GroupScorer
from rlhf_game.rewards.calibration import SPREAD, is_flat, logistic_of

DRAWS: Final = 64
"""Reference draws of each prompt in a pilot."""
PROMPTS: Final = 8
"""Prompts of a pilot at most: the first."""
DEFAULT_DRAWS, DEFAULT_CANDIDATES, DEFAULT_NODES = 16, 16, 2000
"""What is planned where the configuration is of another kind."""
MOST: Final = 1_000_000
"""Proposals that are simulated for the width of a bill at most."""
BACKWARD: Final = 4.0
"""What a token that is trained on costs, in tokens that are drawn."""
PROVES: Final = {
    "candidates": "exact payments and truth as the best report, on the candidates; the width is how far a payment "
    "depends on which are drawn (95 %)",
    "trie": "intervals that are certain for all responses, of a width that is known once it is found; tokens are the "
    "most that it reads; only for answers of a few tokens",
    "draws": "in expectation over draws, truth as the best report and right payments, over all texts; no utility below "
    "0 after any draw, but with log_mean; the width is that of a payment's interval",
    "finetuned": "an interval for each payment and a bound on what a lie gains, at a stated level, both wider by what "
    "training leaves undone, which only the training tells; the width is without it",
}


@final
@dataclass(frozen=True, eq=False)
class Pilot:
    """Reference draws of each prompt, and what they took."""

    problem: Problem
    names: tuple[str, ...]
    scores: Array
    """Every group's, before its calibration: [n, B, K]."""
    rewards: tuple[Array, ...]
    """Every group's, of each prompt: B of [n, K]."""
    lengths: Array
    """Mean tokens of a response to each prompt: [B]."""
    second: float
    """Seconds to draw a token."""
    scored: float
    """Seconds to score a response for all groups."""

    def rates(self) -> Array:
        """Return the acceptance rate of each prompt: [B]."""
        one = self.problem
        tops = [one.shares @ np.minimum(rewards, one.ceilings[:, None]) - one.top for rewards in self.rewards]
        return np.array([np.exp(top / one.strength).mean() for top in tops])

    def cost(self, responses: Array) -> tuple[int, float]:
        """Return the tokens and the seconds of so many responses to each prompt, drawn and scored."""
        tokens = float(responses @ self.lengths)
        return round(tokens), float(tokens * self.second + responses.sum() * self.scored)


def plan(configuration: Configuration) -> dict[str, Any]:
    """Return what each kind of outcome would take and prove. Raises InputError where no texts are played for."""
    fields = configuration.fields
    if fields.regularizer != "kl" or fields.strength == 0 or fields.outcomes.kind not in PROVES:
        raise InputError(
            f"outcomes: must be {', '.join(PROVES)} with regularizer kl to be planned, found "
            f"{fields.outcomes.kind} with {fields.regularizer}"
        )
    with TemporaryDirectory() as folder:
        pilot = _pilot(configuration, Path(folder))
    prompts = len(configuration.source.prompts)
    return {
        "plans": [kind(configuration, pilot, prompts) for kind in (_candidates, _trie, _draws, _finetuned)],
        "pilot": {"prompts": len(pilot.rewards), "draws": DRAWS, "tokens_per_second": float(1 / pilot.second)},
        "flat": [
            name for i, name in enumerate(pilot.names) if is_flat([reward for of in pilot.rewards for reward in of[i]])
        ],
    }


def writing_of(configuration: Configuration) -> TextSampling:
    """Return how the reference of a configuration writes, whatever the kind of its outcomes."""
    spec = configuration.fields.outcomes
    if isinstance(spec, CandidatesSpec | DrawsSpec):
        how = (spec.max_new_tokens, spec.temperature, spec.top_k, spec.top_p)
        return TextSampling(*how, spec.batch_size, spec.server)
    if isinstance(spec, FinetunedSpec):
        served = spec.servers.get("reference")
        return TextSampling(spec.max_new_tokens, spec.temperature, 0, 1.0, spec.batch_size, served)
    assert isinstance(spec, TrieSpec)
    return TextSampling(spec.max_tokens, 1.0, 0, 1.0, spec.batch_size)


def _pilot(configuration: Configuration, folder: Path) -> Pilot:
    source, fields = configuration.source, configuration.fields
    asked = source.prompts[:PROMPTS]
    scorer = GroupScorer(configuration, folder)
    scorer.must_be_pointwise()
    proposer = open_proposer(source.model, asked, writing_of(configuration), source.system, source.base, folder)
    wanted = [(b, j) for b in range(len(asked)) for j in range(DRAWS)]
    begun = time.perf_counter()
    found = proposer.propose(wanted, source.seed, 0)
    drawn = time.perf_counter()
    scores, rewards = scorer.score([b for b, _ in wanted], [one.text for one in found])
    scored = time.perf_counter()
    names, sizes = [group.name for group in fields.groups], [group.size for group in fields.groups]
    spec = (
        fields.outcomes if isinstance(fields.outcomes, DrawsSpec) else DrawsSpec(kind="draws", draws=1, max_proposals=1)
    )
    tokens = np.array([one.tokens for one in found], dtype=np.float64).reshape(len(asked), DRAWS)
    return Pilot(
        spec.problem(names, sizes, fields.weights or {}, fields.strength),
        tuple(names),
        scores.reshape(len(names), len(asked), DRAWS),
        tuple(rewards[:, b * DRAWS : (b + 1) * DRAWS] for b in range(len(asked))),
        tokens.mean(axis=1),
        (drawn - begun) / max(float(tokens.sum()), 1.0),
        (scored - drawn) / len(found),
    )


def _way(kind: str, tokens: int | None, seconds: float | None, width: float | None) -> dict[str, Any]:
    return {
        "kind": kind,
        "tokens": tokens,
        "seconds": seconds,
        "proves": PROVES[kind],
        "width": width,
        "acceptance_rate": None,
    }


def _candidates(configuration: Configuration, pilot: Pilot, prompts: int) -> dict[str, Any]:
    spec = configuration.fields.outcomes
    each = spec.per_prompt if isinstance(spec, CandidatesSpec) else DEFAULT_CANDIDATES
    tokens, seconds = pilot.cost(np.full(len(pilot.rewards), float(each)))
    rng, problem = np.random.default_rng(configuration.source.seed), pilot.problem
    bills = []
    for _ in range(30):
        picked = rng.integers(DRAWS, size=(len(pilot.rewards), each))
        table = Table(np.full(picked.shape, 1 / each), KL(problem.strength))
        rewards = np.stack([of[:, row] for of, row in zip(pilot.rewards, picked, strict=True)], axis=1)
        read = [table.read(reward) for reward in rewards]
        bills.append(table.maximize(problem.shares, read).externalities(problem.shares, read) / problem.multipliers)
    spread = student_interval(np.transpose(bills)).width.mean() * len(bills) ** 0.5  # of one such bill
    width = float(spread) * (len(pilot.rewards) / prompts) ** 0.5
    return _way("candidates", *_scaled(tokens, seconds, pilot, prompts), width)


def _trie(configuration: Configuration, pilot: Pilot, prompts: int) -> dict[str, Any]:
    """Return the most that an expansion takes: a pass for each node; the model's probabilities are needed."""
    if configuration.source.model.endpoint is not None:
        return _way("trie", None, None, None)
    spec = configuration.fields.outcomes
    nodes = prompts * (spec.max_nodes if isinstance(spec, TrieSpec) else DEFAULT_NODES)
    return _way("trie", nodes, nodes * pilot.second, None)


def _draws(configuration: Configuration, pilot: Pilot, prompts: int) -> dict[str, Any]:
    spec = configuration.fields.outcomes
    wanted = spec.draws if isinstance(spec, DrawsSpec) else DEFAULT_DRAWS
    rates = pilot.rates()
    tokens, seconds = pilot.cost(wanted / rates)
    rng, width = np.random.default_rng(configuration.source.seed), None
    if wanted * (1 / rates).sum() <= MOST:
        tapes = [
            _simulated(pilot.problem, of, wanted, rate, rng) for of, rate in zip(pilot.rewards, rates, strict=True)
        ]
        width = float(settle_tapes(tapes, wanted).payments.width.mean())
    found = _way("draws", *_scaled(tokens, seconds, pilot, prompts), width)
    found["acceptance_rate"] = float(len(rates) / (1 / rates).sum())
    found["acceptance_rates"] = rates.tolist()
    found["prompts"] = list(configuration.source.words[: len(rates)])
    found["draws"] = wanted
    found["changes"] = [
        {"change": name, "proposals": float(wanted / changed.rates().min())} for name, changed in _changes(pilot)
    ]
    return found


def _changes(pilot: Pilot) -> list[tuple[str, Pilot]]:
    """Return what the pilot would be with other declarations, and what these are called."""
    now, names = pilot.problem, pilot.names
    least = [max(float(of[i].max()) for of in pilot.rewards) for i in range(len(names))]
    ceilings = np.minimum(now.ceilings, np.maximum(least, 0.01))
    said = ", ".join(f"{name} {ceiling:.2g}" for name, ceiling in zip(names, ceilings, strict=True))
    steep = [
        logistic_of(of)(of, []) if of.std() > 0 else now_of
        for of, now_of in zip(pilot.scores, np.stack(pilot.rewards, axis=1), strict=True)
    ]
    less, more = (replace(pilot, problem=replace(now, strength=factor * now.strength)) for factor in (0.5, 2.0))
    return [
        (f"strength {less.problem.strength:g}", less),
        (f"strength {now.strength:g}, as now", pilot),
        (f"strength {more.problem.strength:g}", more),
        (f"ceilings {said}", replace(pilot, problem=replace(now, ceilings=ceilings))),
        (
            f"logistic calibrations of scale {SPREAD:g} standard deviations",
            replace(pilot, rewards=tuple(np.stack(steep, axis=1))),
        ),
    ]


def _finetuned(configuration: Configuration, pilot: Pilot, prompts: int) -> dict[str, Any]:
    given = configuration.fields.outcomes
    spec = given if isinstance(given, FinetunedSpec) else FinetunedSpec(kind="finetuned")
    groups = len(pilot.names)
    trainings = 1 + (groups if spec.payments_from in ("leave_one_out", "soups") else 0)
    trained = trainings * spec.steps * spec.batch_size * spec.accumulation_steps * float(pilot.lengths.mean())
    drawn = (1 + trainings) * spec.samples * prompts * float(pilot.lengths.mean())
    rewards = np.stack(pilot.rewards, axis=1)
    certified = certified_payments(rewards, pilot.problem.shares, pilot.problem.strength, (0.0, 1.0), level=spec.level)
    width = float((certified.width / pilot.problem.multipliers).mean()) * (DRAWS / spec.samples) ** 0.5
    return _way("finetuned", round(trained + drawn), (BACKWARD * trained + drawn) * pilot.second, width)


def _scaled(tokens: int, seconds: float, pilot: Pilot, prompts: int) -> tuple[int, float]:
    """Return what the pilot's prompts take, for all of them."""
    factor = prompts / len(pilot.rewards)
    return round(tokens * factor), seconds * factor


def _simulated(problem: Problem, rewards: Array, draws: int, rate: float, rng: np.random.Generator) -> Tape:
    """Return a tape of proposals that are picked from the pilot's, again and again."""
    picked, waits = np.zeros(0, dtype=np.intp), np.zeros(0)
    while True:
        more = int(1.5 * draws / rate) + 8
        picked = np.append(picked, rng.integers(rewards.shape[1], size=more))
        waits = np.append(waits, rng.standard_exponential(more))
        found = cut(problem, rewards[:, picked], waits, draws)
        if found is not None:
            return found
