"""The second stage: each group's reward of each candidate, and its declared map to [0, 1]."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from rlhf_game.engines import Engine, Serial
from rlhf_game.errors import InputError
from rlhf_game.files.run_folder import CALLS, Progress, RunFolder, parquet_bytes, read_parquet, versions
from rlhf_game.files.verify import apart
from rlhf_game.mechanism.arrays import Array
from rlhf_game.outcomes.generation import DrawnCandidates
from rlhf_game.outcomes.run_config import Configuration, RunConfig
from rlhf_game.rewards.reward_specs import calibration_of
from rlhf_game.rewards.texts import Backbones, TextReward, call_apart, count_cut, is_pointwise, sharing, upper_bounds

RAW: Final = "raw:"
"""Before the name of a group: its scores, which its calibration has not mapped to [0, 1] yet."""


def score(
    configuration: Configuration,
    drawn: DrawnCandidates,
    folder: RunFolder,
    progress: Progress,
    engine: Engine | None = None,
) -> None:
    """Write scores.parquet; groups that an interrupted scoring finished are not scored again.

    engine: where groups are scored; None: here, one after the other.
    Raises InputError that names the group when its reward or calibration does not fit, RunError when its code fails.
    """
    if folder.scores.exists():
        return
    groups = configuration.fields.groups
    prompts = configuration.source.prompts
    columns: dict[str, list[Any]] = {
        "prompt_index": list(drawn.prompts),
        "prompt": [str(prompts[b]) for b in drawn.prompts],
        "response": list(drawn.texts),
    }
    origins = {}
    parts = [folder.part("scores", i) for i in range(len(groups))]
    known = [part.read() for part in parts]
    missing = [i for i, found in enumerate(known) if found is None]
    shared = Backbones()
    work = partial(_score_group, configuration=configuration, drawn=drawn, calls=folder.path / CALLS, backbones=shared)
    scored = (engine or Serial()).map(work, missing)
    for i in missing:
        progress(f"score for {groups[i].name}", i, len(groups))
        known[i] = next(scored)
        parts[i].write(known[i])
    for group, found in zip(groups, known, strict=True):
        columns |= {f"{RAW}{group.name}": found["scores"], group.name: found["rewards"]}
        columns |= {_member(k, group.name): scores for k, scores in enumerate(found["members"])}
        origins[group.name] = found["provenance"]
    progress("score", len(groups), len(groups))
    provenance = {"config_sha256": configuration.sha256, "rewards": origins, "versions": versions()}
    folder.write(folder.scores, parquet_bytes(columns, provenance))
    folder.drop_parts()


def rewards_again(config: RunConfig, folder: RunFolder) -> list[str]:
    """Return a line for each group whose rewards in scores.parquet are not what its map makes of its raw scores.

    Of an ensemble raw scores are compared with what is made of those of its members.
    """
    columns, _ = read_parquet(folder.scores)
    found = []
    for i, group in enumerate(config.groups):
        scores = np.array(columns[f"{RAW}{group.name}"])
        again = calibration_of(group.reward, group.calibration)(scores, columns["prompt_index"])
        found += apart(("scores", i), columns[group.name], _floats(again))
        aggregate = getattr(group.reward, "aggregate", None)
        if aggregate is not None:
            together = aggregate.build()(np.array(_members(columns, group.name)))
            found += apart(("scores", f"{RAW}{group.name}"), columns[f"{RAW}{group.name}"], _floats(together))
    return found


def member_rewards(config: RunConfig, folder: RunFolder) -> dict[str, list[list[float]]]:
    """Return the rewards of the members of each group's ensemble, one per candidate each; of other groups nothing.

    They are mapped to [0, 1] as the group's own are. Raises InputError that names the member where its map refuses it.
    """
    columns, _ = read_parquet(folder.scores)
    found: dict[str, list[list[float]]] = {}
    for i, group in enumerate(config.groups):
        mapped = calibration_of(group.reward, group.calibration)
        for k, scores in enumerate(_members(columns, group.name)):
            try:
                rewards = _floats(mapped(np.array(scores), columns["prompt_index"]))
            except InputError as error:
                raise InputError(f"groups[{i}].reward: member {k}: {error}") from None
            found.setdefault(group.name, []).append(rewards)
    return found


def _member(k: int, name: str) -> str:
    """Return the column of the scores of a member of a group's ensemble, not mapped to [0, 1]."""
    return f"member {k}:{name}"


def _members(columns: dict[str, list[Any]], name: str) -> list[list[float]]:
    names = (_member(k, name) for k in count())
    return [columns[one] for one in takewhile(columns.__contains__, names)]


def read_rewards(folder: RunFolder) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return each group's rewards, one per candidate, and where they come from."""
    columns, provenance = read_parquet(folder.scores)
    return {name: columns[name] for name in provenance["rewards"]}, provenance


def counted(folder: RunFolder) -> dict[str, dict[str, int]]:
    """Return what a receipt counts of each group's scores.

    truncated: those of texts that were not read whole. ungraded: grades that are not the judge's but the one declared
    for answers without any.
    """
    _, provenance = read_parquet(folder.scores)
    found: dict[str, dict[str, int]] = {}
    for what in ("truncated", "ungraded"):
        counts = {name: origin[what] for name, origin in provenance["rewards"].items() if what in origin}
        found |= {what: counts} if counts else {}
    return found


def _ungraded(origin: Any) -> int:
    """Return how many grades were declared, in what a reward and those inside it say of where they come from."""
    if isinstance(origin, list):
        return sum(_ungraded(inner) for inner in origin)
    return origin.get("ungraded", 0) + _ungraded(origin.get("members", [])) if isinstance(origin, dict) else 0


def _score_group(
    i: int, configuration: Configuration, drawn: DrawnCandidates, calls: Path, backbones: Backbones
) -> dict[str, Any]:
    scorer = GroupScorer(configuration, calls, backbones)
    found = scorer.score_group(i, drawn.prompts, drawn.texts, drawn.token_ids)
    return {
        "scores": _floats(found.scores),
        "rewards": _floats(found.rewards),
        "members": found.members.tolist(),
        "provenance": scorer.origin(i),
    }


@final
@dataclass(frozen=True, eq=False)
class GroupScores:
    """What a group's reward says of k responses."""

    scores: Array
    """[k], in the reward's own unit."""
    rewards: Array
    """[k], mapped to [0, 1]."""
    members: Array
    """The scores of each member of an ensemble, [M, k]; M is 0 for any other reward."""


@final
class GroupScorer:
    """Every group's reward of texts; what is loaded for one call stays for the next."""

    def __init__(self, configuration: Configuration, calls: Path, backbones: Backbones | None = None) -> None:
        self._configuration = configuration
        self._calls = calls
        self._backbones = backbones or Backbones()
        self._built: dict[int, TextReward] = {}
        self._cut: Counter[int] = Counter()

    def must_be_pointwise(self) -> None:
        """Raise InputError when a reward depends on which other responses were found."""
        for i, group in enumerate(self._configuration.fields.groups):
            if not is_pointwise(self._reward(i)):
                raise InputError(
                    f"groups[{i}].reward: must depend on the response alone: a rank among those that were found says "
                    f"nothing about the others, found that of {group.name!a}"
                )

    def score(self, prompts: Sequence[int], texts: Sequence[str]) -> tuple[Array, Array]:
        """Return all groups' scores and rewards of responses, [n, k] each. prompts: which one each is to, [k]."""
        found = [self.score_group(i, prompts, texts) for i in range(len(self._configuration.fields.groups))]
        return np.stack([one.scores for one in found]), np.stack([one.rewards for one in found])

    def score_group(
        self, i: int, prompts: Sequence[int], texts: Sequence[str], token_ids: Sequence[list[int]] | None = None
    ) -> GroupScores:
        """Return what a group's reward says of responses. token_ids: of each text, where they are known.

        Raises InputError that names the group.
        """
        group, source = self._configuration.fields.groups[i], self._configuration.source
        if self._configuration.rows is not None:
            asked, said, columns = self._configuration.rows.texts_and_columns(prompts, texts)
        else:
            asked, said = [source.prompts[b] for b in prompts], list(texts)
            columns = {name: [values[b] for b in prompts] for name, values in source.columns.items()}
        if token_ids is not None:
            columns["completion_ids"] = list(token_ids)
        try:
            scores, members = call_apart(self._reward(i), asked, said, columns, prompts)
            self._cut[i] += count_cut(self._reward(i), asked, said)
        except InputError as error:
            raise InputError(f"groups[{i}].reward: {error}") from error
        try:
            return GroupScores(scores, calibration_of(group.reward, group.calibration)(scores, prompts), members)
        except InputError as error:
            raise InputError(f"groups[{i}].calibration: {error}") from error

    def bounds_beginnings(self) -> bool:
        """Return whether two groups' rewards are bounded by how a text begins: less can never rule it out for all."""
        rewards = [self._reward(i) for i in range(len(self._configuration.fields.groups))]
        return sum(bool(np.isfinite(upper_bounds(reward, [""])).all()) for reward in rewards) > 1

    def bounds(self, beginnings: Sequence[str]) -> Array:
        """Return the most that every group's reward of a text can be which begins so: [n, k]."""
        groups = self._configuration.fields.groups
        most = np.ones((len(groups), len(beginnings)))
        for i, group in enumerate(groups):
            scores = upper_bounds(self._reward(i), beginnings)
            if np.isfinite(scores).all():
                most[i] = calibration_of(group.reward, group.calibration)(scores, [0] * len(beginnings))
        return most

    def origin(self, i: int) -> dict[str, Any]:
        """Return where a group's rewards come from, and how many of them are not what they seem (see ``counted``)."""
        said = self._configuration.fields.groups[i].reward.model_dump(mode="json")
        origin = getattr(self._reward(i), "provenance", None)
        counts = {"truncated": self._cut[i], "ungraded": _ungraded(origin)}
        return {"reward": said, "from": origin, **{what: count for what, count in counts.items() if count}}

    def provenance(self, pairs: Sequence[tuple[int, str]]) -> dict[str, Any]:
        """Return where every group's rewards of all these prompts and texts come from, by name.

        What was not read whole is counted anew: some of it may have been scored before this process began.
        """
        groups = self._configuration.fields.groups
        asked, texts = [self._configuration.source.prompts[b] for b, _ in pairs], [text for _, text in pairs]
        for i in range(len(groups)):
            self._cut[i] = count_cut(self._reward(i), asked, texts)
        return {group.name: self.origin(i) for i, group in enumerate(groups)}

    def _reward(self, i: int) -> TextReward:
        if i not in self._built:
            group = self._configuration.fields.groups[i]
            reward = group.reward.build_keeping(self._configuration.source.base, self._calls)
            (self._built[i],) = sharing([reward], self._backbones)
        return self._built[i]


def _floats(values: Array | Sequence[float]) -> list[float]:
    return [float(value) for value in np.asarray(values)]
