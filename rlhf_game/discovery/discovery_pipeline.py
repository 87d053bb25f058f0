"""``rlhf-game discover``: generations of candidates into a folder; what was tried already is never tried again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, final

from rlhf_game.chat import Ledger
from rlhf_game.chat.chat_specs import dry_chat, open_chat
from rlhf_game.discovery.archive import Archive, Entry, as_lines, ranked
from rlhf_game.discovery.discovery_config import DiscoveryConfig, DiscoveryConfiguration, EvolutionSpec
from rlhf_game.discovery.evolution import Evolution
from rlhf_game.discovery.figure import check_installed, draw_search
from rlhf_game.discovery.proposers import ExpressionProposer, LanguageModelProposer
from rlhf_game.discovery.task_scores import TaskScorer
from rlhf_game.errors import RunError
from rlhf_game.files.run_folder import CALLS, Progress, unwatched
from rlhf_game.files.verify import apart
from rlhf_game.files.workspace import CONFIG, Workspace, open_workspace

RESULT = "result.json"
"""The last file that is written: where it is, the discovery is finished."""
SHOWN = 10
"""Of the best candidates, how many people see."""


@final
@dataclass(frozen=True)
class FinishedDiscovery:
    """A finished discovery."""

    folder: Path
    result: dict[str, Any]
    """The best candidate and the known losses, on the tasks of the search and on held-out ones; counts; the curve."""
    archive: tuple[Entry, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """Return what people read: the best candidates, then the known losses."""
        best = [
            (entry.name, entry.text, f"{entry.score:.4f}", f"{entry.reward:.3f}", f"{entry.kl:.3f}")
            for entry in ranked(self.archive)[:SHOWN]
        ]
        known = [
            (name, one["formula"], *(f"{one['search'][key]:.{digits}f}" for key, digits in _DIGITS))
            for name, one in self.result["baselines"].items()
        ]
        return [*best, *known]


_DIGITS = (("score", 4), ("reward", 3), ("kl", 3))


def discover(configuration: DiscoveryConfiguration, path: Path, progress: Progress | None = None) -> FinishedDiscovery:
    """Do what is left of the discovery in the folder ``path``, and return it finished.

    The same configuration gives the same archive however often it was stopped (with a language model, whose answers are
    kept, as well). Raises InputError when the configuration is wrong or the folder is another's, RunError when the
    folder is in use, a language model stays away or no candidate can be trained with.
    """
    watch, fields = progress or unwatched, configuration.fields
    with open_workspace(path, configuration, RESULT) as workspace:
        archive, judge, known = Archive(workspace, path / "candidates"), TaskScorer(fields), path / RESULT
        if not known.exists():
            check_installed()
            baselines = _baselines(judge, fields, workspace, watch)
            proposer = _proposer(configuration, path, baselines)
            entries = _search(proposer, judge, archive, fields, watch)
            result = _result(judge, entries, baselines, fields, watch)
            workspace.write(path / "archive.jsonl", as_lines(entries).encode())
            workspace.write(path / "search.svg", draw_search(entries, baselines))
            workspace.finish_json(known, result)
        return FinishedDiscovery(path, workspace.read_json(known), tuple(archive.read()))


def count_calls(configuration: DiscoveryConfiguration, path: Path) -> dict[str, Any]:
    """Return how often a language model would be asked, and the tokens of it; nothing is asked, nothing written.

    The archive that later generations are shown is not there yet: their questions are longer than is counted.
    """
    fields, ledger = configuration.fields, Ledger(None)
    spec = fields.proposer
    if not isinstance(spec, EvolutionSpec):
        chat = dry_chat(spec.model, configuration.base, path / CALLS, ledger, seed=fields.seed)
        writer = LanguageModelProposer(chat, (), fields.limits.limits(), spec.temperature, spec.max_tokens)
        for generation in range(fields.generations):
            writer.propose([], generation, fields.population)
    return ledger.report()


def _baselines(judge: TaskScorer, fields: DiscoveryConfig, workspace: Workspace, watch: Progress) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        found = {}
        for k, name in enumerate(fields.baselines):
            watch("known losses", k, len(fields.baselines))
            found[name] = judge.baseline(name, held_out=False)
        return found

    return dict(workspace.kept(workspace.path / "baselines.json", make))


def _proposer(configuration: DiscoveryConfiguration, path: Path, baselines: Mapping[str, Any]) -> ExpressionProposer:
    fields, spec = configuration.fields, configuration.fields.proposer
    limits = fields.limits.limits()
    if isinstance(spec, EvolutionSpec):
        return Evolution(fields.seed, limits, **spec.model_dump(exclude={"kind"}))
    chat = open_chat(spec.model, configuration.base, path / CALLS, seed=fields.seed)
    shown = tuple((name, one["formula"], one["score"]) for name, one in baselines.items())
    return LanguageModelProposer(chat, shown, limits, spec.temperature, spec.max_tokens)


def _search(
    proposer: ExpressionProposer, judge: TaskScorer, archive: Archive, fields: DiscoveryConfig, watch: Progress
) -> list[Entry]:
    """Return the whole archive. What a generation proposes depends on the generations before it alone."""
    entries = archive.read()
    for generation in range(fields.generations):
        before = [entry for entry in entries if entry.generation < generation]
        there = {entry.index for entry in entries if entry.generation == generation}
        if len(there) == fields.population:
            continue
        proposals = proposer.propose(before, generation, fields.population)
        for index, proposal in enumerate(proposals):
            watch(_progress_of(entries, generation, fields), index, fields.population)
            if index in there:
                continue
            older = [e for e in entries if (e.generation, e.index) < (generation, index)]
            entry = judge.judge(proposal, generation, index, older)
            archive.write(entry)
            entries.append(entry)
        entries.sort(key=lambda entry: (entry.generation, entry.index))
    return entries


def _progress_of(entries: Sequence[Entry], generation: int, fields: DiscoveryConfig) -> str:
    best = ranked(entries)[:1]
    so_far = f" [best {best[0].score:.4f}]" if best else ""
    return f"generation {generation + 1} of {fields.generations}{so_far}"


def _result(
    judge: TaskScorer, entries: Sequence[Entry], baselines: Mapping[str, Any], fields: DiscoveryConfig, watch: Progress
) -> dict[str, Any]:
    best = ranked(entries)[:1]
    if not best:
        raise RunError(f"no candidate of {len(entries)} could be trained with; the last reason: {entries[-1].reason}")
    found = best[0]
    watch("held-out tasks", 0, len(baselines) + 1)
    there = judge.held_out(found.text)
    known = {}
    for k, (name, one) in enumerate(baselines.items(), start=1):
        watch("held-out tasks", k, len(baselines) + 1)
        search = {key: one[key] for key in ("score", "scores", "reward", "kl")}
        held_out = judge.baseline(name, held_out=True)
        known[name] = {"formula": held_out.pop("formula"), "search": search, "held_out": held_out}
    gains = {
        name: _gain(there["scores"], one["held_out"]["scores"]) for name, one in known.items()
    }  # fmt: skip
    return {
        "best": {**_best(found), "held_out": there},
        "baselines": known,
        "gain_over": gains,
        **_counted(entries, fields.generations),
    }


def _best(found: Entry) -> dict[str, Any]:
    search = {"score": found.score, "scores": list(found.scores), "reward": found.reward, "kl": found.kl}
    return {"name": found.name, "expression": found.text, "origin": found.origin, "search": search}


def _counted(entries: Sequence[Entry], generations: int) -> dict[str, Any]:
    return {
        "curve": _curve(entries, generations),
        "candidates": {
            "proposed": len(entries),
            "scored": sum(entry.score is not None for entry in entries),
            "rejected": sum(entry.reason is not None for entry in entries),
        },
    }


def discovery_differences(path: Path) -> list[str]:
    """Return a line for each thing that the result of a finished discovery says otherwise than its candidates.

    Scores are not made again: that takes the trainings.
    """
    workspace = Workspace(path)
    entries = Archive(workspace, path / "candidates").read()
    said, generations = workspace.read_json(path / RESULT), workspace.read_json(path / CONFIG)["generations"]
    scores = said["best"]["held_out"]["scores"]
    gains = {name: _gain(scores, one["held_out"]["scores"]) for name, one in said["baselines"].items()}
    best = {**_best(ranked(entries)[0]), "held_out": said["best"]["held_out"]}
    found = apart((), said, {**said, "best": best, "gain_over": gains, **_counted(entries, generations)})
    if (path / "archive.jsonl").read_text(encoding="utf-8") != as_lines(entries):
        found.append("archive.jsonl: must be the candidates, found others")
    return found


def _gain(mine: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return the mean difference of scores on the same tasks, and its standard error."""
    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    return {"mean": fmean(differences), "standard_error": stdev(differences) / len(differences) ** 0.5}


def _curve(entries: Sequence[Entry], generations: int) -> list[float | None]:
    """Return the best score up to each generation."""
    found = []
    for generation in range(generations):
        scores = [entry.score for entry in entries if entry.generation <= generation and entry.score is not None]
        found.append(max(scores, default=None))
    return found
