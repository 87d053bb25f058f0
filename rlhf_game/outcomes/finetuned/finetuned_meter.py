"""Billing a log of served responses of a trained policy: by the models with and without each group.

The price of a response is (strength / mu_i) log p(y) / p_-i(y), whatever was trained. Its mean is (strength / mu_i)
KL(p || p_-i): the bill where both are trained to the optimum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.meter import LEVEL, Metered, Served
from rlhf_game.files.run_folder import RunFolder, unwatched
from rlhf_game.files.sampled import (
    REFERENCE,
    SampledGameFile,
    read_sampled_game,
    settle_sampled,
    sizes_and_weights,
    without,
)
from rlhf_game.files.workspace import Workspace
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.estimates import student_total
from rlhf_game.outcomes.finetuned.finetuned_draws import (
    COST,
    check_policy,
    load_reference,
    place_of_policy,
    read_samples,
)
from rlhf_game.outcomes.finetuned.finetuned_training import main_task, policy_training, spec_of
from rlhf_game.outcomes.log_probabilities import is_near
from rlhf_game.outcomes.run_config import Configuration
from rlhf_game.outcomes.verifying import configuration_of

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel

SURE = 4
"""Draws of a policy that tell whether a folder still holds its weights."""
Said = tuple[int, tuple[int, ...]]
"""The place of a prompt, and the token ids of a response to it."""


def meter_trained(path: Path, served: Sequence[Served], config: Path | None = None) -> Metered:
    """Return the price of every served response for every group, by the models of a run with outcomes finetuned.

    A response that was drawn is priced by its tokens, any other to a known prompt by those that it is encoded to; one
    that is longer than the run lets it be is unknown. What a total should be is Student's interval from the draws of
    the policy (approximate). config: what was run; without it the paths in it start from the current folder. Raises
    InputError when the run has no model without each group, or a folder of one no longer holds its weights.
    """
    run = _TrainedRun(RunFolder(Workspace(path)), configuration_of(path, config))
    asked = [run.tokens_of(one) for one in served]
    known = [one for one in asked if one is not None]
    places, counts = np.unique([b for b, _ in known], return_counts=True)
    wanted = set(places.tolist())
    drawn = [one for one in run.drawn if one[0] in wanted]
    found = run.prices([*known, *drawn])
    prices = np.full((len(found), len(served)), np.nan)
    prices[:, [one is not None for one in asked]] = found[:, : len(known)]
    of_draws, at = found[:, len(known) :], np.array([b for b, _ in drawn])
    laws = [of_draws[:, at == b] for b in places]
    names = tuple(group.name for group in run.game.fields.groups)
    total = student_total(np.stack(laws, axis=1) if laws else np.zeros((len(names), 0, 2)), counts, LEVEL)
    return Metered(names, prices, total)


@final
@dataclass(frozen=True)
class _TrainedRun:
    """A finished run and its models. Each is loaded once, one at a time but for the reference."""

    folder: RunFolder
    configuration: Configuration

    @cached_property
    def game(self) -> SampledGameFile:
        game = read_sampled_game(self.folder.game)
        said = game.fields.payments_from, game.fields.payment
        if said != ("leave_one_out", "affine"):
            raise InputError(
                f"{game.name}: payments_from: must be leave_one_out with payment affine, so that there is a model "
                f"without each group to price responses by, found {said[0]} with payment {said[1]}"
            )
        return game

    @cached_property
    def delivered(self) -> str:
        return settle_sampled(self.game)[2]

    @cached_property
    def columns(self) -> Mapping[str, list[Any]]:
        columns, origin = read_samples(self.folder)
        spec = spec_of(self.configuration)
        check_policy(place_of_policy(self.configuration.source, spec, self.folder), self.folder, origin)
        return columns

    @cached_property
    def reference(self) -> "LanguageModel":
        return load_reference(self.configuration.source, unwatched)

    @cached_property
    def drawn(self) -> list[Said]:
        """Every draw of the delivered policy."""
        return [self._row(k) for k in self._rows(self.delivered)]

    @cached_property
    def _prompts(self) -> dict[str, int]:
        words = self.configuration.source.words
        return {words[b]: b for b in reversed(range(len(words)))}

    @cached_property
    def _drawn_texts(self) -> dict[tuple[int, str], Said]:
        texts = self.columns["text"]
        return {(self.columns["prompt"][k], texts[k]): self._row(k) for k in reversed(self._rows(self.delivered))}

    def tokens_of(self, one: Served) -> Said | None:
        """Return a row of the log as tokens; None where it is no response that the policy could give."""
        b, spec = self._prompts.get(one.prompt), spec_of(self.configuration)
        if b is None:
            return None
        if (b, one.response) in self._drawn_texts:
            return self._drawn_texts[b, one.response]
        system, prompt = self.configuration.source.system, self.configuration.source.prompts[b]
        ids = self.reference.encode_exchange(prompt, one.response, system)[1]
        if len(ids) == spec.max_new_tokens + 1:  # it is cut before it ends
            ids = ids[:-1]
        return (b, tuple(ids)) if len(ids) <= spec.max_new_tokens else None

    def prices(self, said: Sequence[Said]) -> Array:
        """Return (strength / mu) log p / p_-i of responses: [n, k]."""
        fields, distinct = self.game.fields, list(dict.fromkeys(said))
        places = {one: k for k, one in enumerate(distinct)}
        sizes, multipliers = sizes_and_weights(fields.groups, fields.weights)
        here = self._logs(self.delivered, distinct)
        alone = [self._logs(without(group.name, len(sizes)), distinct) for group in fields.groups]
        prices = fields.strength / multipliers[:, None] * (here - np.array(alone))
        return np.asarray(prices[:, [places[one] for one in said]])

    def _logs(self, policy: str, said: Sequence[Said]) -> Array:
        """Return log p of responses, [k], after some of the policy's own draws are found to be as likely as they were.

        Raises InputError where they are not.
        """
        from rlhf_game.training_backends.lm.sampling import log_probabilities

        model, rows = self._model(policy), self._rows(policy)[:SURE]
        task = main_task(self.configuration, spec_of(self.configuration), self.folder.path)
        encoded = self.reference.encode_prompts(self.configuration.source.prompts, self.configuration.source.system)
        both = [*map(self._row, rows), *said]
        found = log_probabilities(
            model, [encoded[b] for b, _ in both], [ids for _, ids in both], sampling=policy_training(task).sampling
        )
        for k, now in zip(rows, found.tolist(), strict=False):
            if not is_near(self.columns["log_probability"][k], now):
                raise InputError(f"{self._place(policy)}: must hold the weights that this run drew from, found others")
        return np.asarray(found[len(rows) :])

    def _model(self, policy: str) -> "LanguageModel":
        from rlhf_game.training_backends.trainers.policies import load_policy

        return self.reference if policy == REFERENCE else load_policy(self._place(policy))

    def _place(self, policy: str) -> Path:
        kept = self.folder.workspace.read_json(self.folder.path / COST)["trainings"]
        named = [one["folder"] for one in kept if one["of"] == policy and "folder" in one]
        if not named or not (self.folder.path / named[0]).is_dir():
            raise InputError(
                f"{self.folder.path / COST}: must name the folder of the policy {policy!r}, found none there; run the "
                "configuration anew in another folder"
            )
        return self.folder.path / str(named[0])

    def _rows(self, policy: str) -> list[int]:
        return [k for k, of in enumerate(self.columns["policy"]) if of == policy]

    def _row(self, k: int) -> Said:
        return self.columns["prompt"][k], tuple(self.columns["token_ids"][k])
