"""The stages of SEFT: two revisers, their examination, and the evolutions of the policy; each is done once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

from rlhf_game.errors import InputError, RunError
from rlhf_game.files.conversations import Text
from rlhf_game.files.prompt_rows import prompts_of
from rlhf_game.mechanism.arrays import Array
from rlhf_game.rewards.texts import TextReward, call_reward
from rlhf_game.training.intervals import standard_error
from rlhf_game.training.kinds import Task
from rlhf_game.training.outputs import changed_outputs
from rlhf_game.training.recipes.seft import SeftConfig
from rlhf_game.training.stages import in_parts, publish, seed_of
from rlhf_game.training.subsets import Rows, Subsets, read_subsets

if TYPE_CHECKING:
    from rlhf_game.training_backends import LanguageModel

Texts: TypeAlias = Sequence[tuple[Text, Text]]
"""Prompts and responses."""
LABELS = ("major", "minor", "none")
PRELIMINARY, ADAPTIVE = 0, 1
"""What the seeds of the revisers' own draws begin with."""


@final
@dataclass(frozen=True)
class SeftContext:
    """What all stages of one training share."""

    fields: SeftConfig
    task: Task
    critic: TextReward

    def scores(self, texts: Texts, name: str) -> Array:
        """Return the critic's scores of (prompt, response), [n]; asked once. name: of the file that keeps them."""
        path = self.task.path / f"{name}.json"
        self.task.watch(f"score {name}", 0, 1)
        return np.array(
            self.task.workspace.kept(path, lambda: call_reward(self.critic, *_columns(texts)).tolist()),
            dtype=np.float64,
        )

    def load(self, place: Path | str) -> "LanguageModel":
        """Return a model by name, or a stage's policy by its folder."""
        from rlhf_game.training_backends import load_language_model
        from rlhf_game.training_backends.trainers.policies import load_policy

        device = self.fields.evolution_training.device
        if isinstance(place, Path):
            return load_policy(place, device=device)
        return load_language_model(
            place, base=self.task.base, device=device, folds_system=self.fields.evolution_training.fold_system
        )

    def revise(
        self, reviser: Path, texts: Texts, name: str, *, stage: int, has_labels: bool
    ) -> list[tuple[str | None, str]]:
        """Return the label and the text of each revision, [n]. stage: of the seed."""
        from rlhf_game.training_backends.trainers.self_training import revise

        loaded: list[Any] = []

        def make(places: range) -> list[tuple[str | None, str]]:
            if not loaded:
                loaded.append(self.load(reviser))
            revisions = revise(
                loaded[0], [texts[k] for k in places], seed=seed_of(self.fields.seed, stage, places.start),
                sampling=self.fields.draw.sampling(), has_labels=has_labels,
            )  # fmt: skip
            return [(one.label, one.text) for one in revisions]

        told = lambda done: self.task.watch(f"revise {name}", done, len(texts))  # noqa: E731
        found = in_parts(self.task.workspace, self.task.path / f"{name}.json", len(texts), make, told)
        return [(label, text) for label, text in found]

    def draw(self, model: Path | str, prompts: Sequence[Text], name: str, *, stage: int) -> list[str]:
        """Return one response to each prompt, [n]. stage: of the seed."""
        from rlhf_game.training_backends import sample

        loaded: list[Any] = []

        def make(places: range) -> list[str]:
            if not loaded:
                loaded.append(self.load(model))
            rows = sample(
                loaded[0], [prompts[k] for k in places], 1, seed=seed_of(self.fields.seed, stage, places.start),
                sampling=self.fields.draw.sampling(),
            )  # fmt: skip
            return [row[0].text for row in rows]

        told = lambda done: self.task.watch(f"draw {name}", done, len(prompts))  # noqa: E731
        return [
            str(text)
            for text in in_parts(self.task.workspace, self.task.path / f"{name}.json", len(prompts), make, told)
        ]


def train_seft(fields: SeftConfig, task: Task) -> dict[str, Any]:
    """Do what is left of a training, and return its metrics."""
    place = SeftContext(fields, task, fields.critic.build(task.base))
    subsets = read_subsets(fields, task.base)
    warmup, rest = _divided(subsets.training, fields)
    preliminary = _train_preliminary(warmup, place)
    adaptive, labelled = _train_adaptive(rest, preliminary, place)
    revisers = {"preliminary": (preliminary, False), "adaptive": (adaptive, True)}
    tests = {name: rows for name, rows in subsets.judged.items() if name not in ("train", "train_flipped")}
    prompts = _prompts(fields, subsets, task)
    policies, evolutions = _evolve(prompts, adaptive, place)
    examined, outputs = _examined_policies(policies, subsets.judged["test"], place)
    metrics = {
        "kind": fields.kind,
        "pairs": {"warmup": len(warmup), "adaptive": len(rest), "prompts": len(prompts)},
        "adaptive": labelled,
        "revisers": {
            name: {
                subset: _examined(*reviser, rows, f"examined/{name}/{subset}", place) for subset, rows in tests.items()
            }
            for name, reviser in revisers.items()
        },
        "evolution": evolutions,
        "policies": examined,
        "outputs": outputs,
    }
    if isinstance(last := list(policies.values())[-1], Path):
        publish(task.workspace, last)
    return metrics


def _divided(rows: Rows, fields: SeftConfig) -> tuple[Rows, Rows]:
    """Return the pairs of the warm-up and those of the adaptive training."""
    order = np.random.default_rng([fields.seed, 0]).permutation(len(rows))
    count = round(fields.warmup_share * len(rows))
    if not 0 < count < len(rows):
        raise InputError(
            f"warmup_share: must leave pairs on both sides of {len(rows)} training pairs, found {fields.warmup_share}"
        )
    return tuple(rows[k] for k in order[:count]), tuple(rows[k] for k in order[count:])


def _prompts(fields: SeftConfig, subsets: Subsets, task: Task) -> list[Text]:
    if fields.prompts is None:
        return list(dict.fromkeys(row.prompt for row in subsets.training))
    return list(dict.fromkeys(prompts_of(fields.prompts, task.base)[0]))


def _train_preliminary(rows: Rows, place: SeftContext) -> Path:
    """Train the reviser that revises whatever it is shown: (prompt, rejected) to chosen (SEFT, eq. 1)."""
    from rlhf_game.training_backends.trainers.self_training import examples_of_revisions, train_supervised

    fields, out = place.fields, place.task.path / "reviser" / "preliminary"
    examples = examples_of_revisions([(row.prompt, row.rejected, row.chosen) for row in rows])
    training = fields.reviser_training.training(fields.reviser_model, fields.seed)
    train_supervised(training, examples, out, base=place.task.base, watch=place.task.watch)
    return out.resolve()


def _train_adaptive(rows: Rows, preliminary: Path, place: SeftContext) -> tuple[Path, dict[str, Any]]:
    """Label the pairs by what the preliminary reviser gains on them, and train it on (SEFT, eq. 2)."""
    from rlhf_game.training_backends.trainers.self_training import (
        adaptive_rows,
        examples_of_revisions,
        label_of,
        train_supervised,
    )

    fields, rule = place.fields, place.fields.labels
    originals = [(row.prompt, row.rejected) for row in rows]
    revised = place.revise(preliminary, originals, "adaptive/revised", stage=PRELIMINARY, has_labels=False)
    after = [(prompt, text) for (prompt, _), (_, text) in zip(originals, revised, strict=True)]
    before = place.scores(originals, "adaptive/scores")
    benefits = place.scores(after, "adaptive/scores-revised") - before
    targets, labels = adaptive_rows(
        [(row.prompt, row.chosen, row.rejected) for row in rows], benefits, minor=rule.minor, major=rule.major,
        kept=rule.kept, rng=np.random.default_rng([fields.seed, 1]),
    )  # fmt: skip
    out = place.task.path / "reviser" / "adaptive"
    training = fields.reviser_training.training(fields.reviser_model, fields.seed, start=str(preliminary))
    train_supervised(
        training, examples_of_revisions(targets, labels), out, base=place.task.base, watch=place.task.watch
    )
    by_gain = [label_of(float(benefit), rule.minor, rule.major) for benefit in benefits]
    return out.resolve(), {
        "labels_by_gain": _shares(by_gain),
        "labels": _shares(labels),
        "benefit": {
            "mean": float(benefits.mean()),
            "deciles": np.quantile(benefits, np.linspace(0.1, 0.9, 9)).tolist(),
        },
        "by_rank": [
            {"rank": rank, "responses": len(places), "labels": _shares([by_gain[k] for k in places])}
            for rank, places in enumerate(_by_quality(before, fields.ranks))
        ],
    }


def _examined(reviser: Path, has_labels: bool, rows: Rows, name: str, place: SeftContext) -> list[dict[str, Any]]:
    """Return what a reviser does with held-out responses, good and bad, by their initial quality with the critic.

    improved, worsened: shares of those that it revised, None where it revised none (SEFT, figure 5).
    """
    texts = list(dict.fromkeys((row.prompt, text) for row in rows for text in (row.chosen, row.rejected)))
    stage = ADAPTIVE if has_labels else PRELIMINARY
    revised = place.revise(reviser, texts, f"{name}/revised", stage=stage, has_labels=has_labels)
    before = place.scores(texts, f"{name}/scores")
    after = [(prompt, text) for (prompt, _), (_, text) in zip(texts, revised, strict=True)]
    benefits = place.scores(after, f"{name}/scores-revised") - before
    found = []
    for rank, places in enumerate(_by_quality(before, place.fields.ranks)):
        own = [k for k in places if revised[k][0] != "none"]
        found.append(
            {
                "rank": rank,
                "responses": len(places),
                "original": float(before[places].mean()),
                "benefit": float(benefits[places].mean()),
                "revised": len(own),
                "improved": float(np.mean(benefits[own] > 0)) if own else None,
                "worsened": float(np.mean(benefits[own] < 0)) if own else None,
                "labels": _shares([str(revised[k][0]) for k in places]) if has_labels else {},
            }
        )
    return found


def _by_quality(scores: Array, ranks: int) -> list[list[int]]:
    """Return the places of scores [n] in ``ranks`` groups of like size, the best first; empty groups are left out."""
    order = np.argsort(-scores, kind="stable")
    return [part.tolist() for part in np.array_split(order, ranks) if len(part)]


def _shares(labels: Sequence[str]) -> dict[str, float]:
    counts = Counter(labels)
    return {label: counts[label] / len(labels) for label in LABELS}


def _evolve(
    prompts: list[Text], reviser: Path, place: SeftContext
) -> tuple[dict[str, Path | str], dict[str, dict[str, Any]]]:
    """Return the policy before and after each evolution, and what each evolution was made of (SEFT, eqs. 3 and 4)."""
    from rlhf_game.training_backends.trainers.self_training import Example, train_supervised

    fields, task = place.fields, place.task
    policies: dict[str, Path | str] = {"before": fields.model}
    found = {}
    for number, name in enumerate(fields.evolution):
        policy = list(policies.values())[-1]
        generator = policy if name == "internal" else fields.generator or fields.reviser_model
        stage = 2 + 2 * number
        drawn = place.draw(generator, prompts, f"evolution-{number}/drawn", stage=stage)
        originals = list(zip(prompts, drawn, strict=True))
        revised = place.revise(reviser, originals, f"evolution-{number}/revised", stage=stage + 1, has_labels=True)
        after = [(prompt, text) for prompt, (_, text) in zip(prompts, revised, strict=True)]
        scores = place.scores(originals, f"evolution-{number}/scores")
        gained = place.scores(after, f"evolution-{number}/scores-revised") - scores
        examples = [Example(prompt, text) for prompt, text in after if text.strip()]
        if not examples:
            raise RunError(f"evolution {name}: all revised responses are empty: there is nothing to learn from")
        out = task.path / f"evolution-{number}" / "policy"
        start = str(policy) if isinstance(policy, Path) else None
        training = fields.evolution_training.training(fields.model, fields.seed, start=start)
        trained = train_supervised(training, examples, out, base=task.base, watch=task.watch)
        policies[f"{number}: {name}"] = out.resolve()
        found[f"{number}: {name}"] = {
            "responses": len(examples),
            "empty": len(after) - len(examples),
            "critic": float(scores.mean()),
            "gain": float(gained.mean()),
            "labels": _shares([str(label) for label, _ in revised]),
            "first_loss": trained.losses[0],
            "last_loss": trained.losses[-1],
        }
    return policies, found


def _examined_policies(
    policies: Mapping[str, Path | str], rows: Rows, place: SeftContext
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return the critic's mean score of what each policy answers to held-out prompts; and some of the answers."""
    prompts, found, answers = list(dict.fromkeys(row.prompt for row in rows)), {}, []
    for number, (name, policy) in enumerate(policies.items()):
        drawn = place.draw(policy, prompts, f"examined/policy-{number}", stage=100)
        answers.append(drawn)
        scores = place.scores(list(zip(prompts, drawn, strict=True)), f"examined/policy-{number}-scores")
        found[name] = {
            "critic": float(scores.mean()),
            "standard_error": standard_error(scores),
            "mean_length": float(np.mean([len(text) for text in drawn])),
        }
    return found, changed_outputs(prompts, answers[0], answers[-1]) if len(answers) > 1 else []


def _columns(texts: Texts) -> tuple[list[Text], list[Text]]:
    return [prompt for prompt, _ in texts], [text for _, text in texts]
