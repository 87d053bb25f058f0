"""``run --yardstick``: what a run's candidates keep of the gain that the optimum over all texts would bring."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.draws.yardstick import fresh_candidates, kept
from rlhf_game.outcomes.draws.draws_spec import DrawsSpec
from rlhf_game.outcomes.draws.plan import writing_of
from rlhf_game.outcomes.draws.proposals import open_proposer
from rlhf_game.outcomes.run_config import CandidatesSpec, Configuration
from rlhf_game.outcomes.scoring import GroupScorer

LEAST, TIMES = 128, 8
"""Reference draws of each prompt: so many at least, and so many for each candidate."""
PART: Final = 4
"""The stream of the seed that these draws are from; no settlement uses it."""


def check_yardstick(configuration: Configuration) -> None:
    """Raise InputError where there are no candidates, or none of the reference, to be measured."""
    fields = configuration.fields
    if not isinstance(fields.outcomes, CandidatesSpec) or fields.outcomes.proposal or fields.regularizer != "kl":
        raise InputError(
            f"outcomes: must be candidates of the reference with regularizer kl to be measured, found "
            f"{fields.outcomes.kind}"
        )


def measure(configuration: Configuration) -> dict[str, Any]:
    """Return the share of the exact gain that a policy of so many fresh candidates a response keeps; writes nothing.

    Raises InputError as ``check_yardstick`` does, or when rewards rank responses among those found.
    """
    check_yardstick(configuration)
    fields, source = configuration.fields, configuration.source
    spec = fields.outcomes
    assert isinstance(spec, CandidatesSpec)
    draws = max(LEAST, TIMES * spec.per_prompt)
    wanted = [(b, j) for b in range(len(source.prompts)) for j in range(draws)]
    with TemporaryDirectory() as folder:
        scorer = GroupScorer(configuration, Path(folder))
        scorer.must_be_pointwise()
        how = writing_of(configuration)
        proposer = open_proposer(source.model, source.prompts, how, source.system, source.base, Path(folder))
        texts = [one.text for one in proposer.propose(wanted, source.seed, PART)]
        _, rewards = scorer.score([b for b, _ in wanted], texts)
    names, sizes = [group.name for group in fields.groups], [group.size for group in fields.groups]
    problem = DrawsSpec(kind="draws", draws=1, max_proposals=1).problem(
        names, sizes, fields.weights or {}, fields.strength
    )
    scores = (problem.shares @ rewards).reshape(len(source.prompts), draws)
    rng = np.random.default_rng(source.seed)
    share, gain = kept(list(scores), fields.strength, fresh_candidates(spec.per_prompt), rng)
    return {
        "per_prompt": spec.per_prompt,
        "draws": draws,
        "kept": share.document(),
        "exact_gain": gain.document(),
        "interval": "bootstrap",
    }
