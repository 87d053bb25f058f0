"""The rounds of OSP: draw, rank against the empty response, pair, judge in both orders, train; each is done once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import numpy as np

from rlhf_game.errors import InputError, RunError
from rlhf_game.files.prompt_rows import prompts_of
from rlhf_game.mechanism.arrays import Array
from rlhf_game.rewards.diagnostics import spearman
from rlhf_game.rewards.texts import call_reward
from rlhf_game.training.intervals import standard_error
from rlhf_game.training.kinds import Task
from rlhf_game.training.outputs import changed_outputs
from rlhf_game.training.recipes.osp import OspConfig
from rlhf_game.training.stages import in_parts, publish, seed_of
from rlhf_game.training.subsets import Rows, read_data

if TYPE_CHECKING:
    from rlhf_game.training_backends.trainers.self_training import PairJudge, Verdicts

Places: TypeAlias = list[tuple[int, int]]


def ranked_pairs(scores: Array) -> Places:
    """Return K // 2 pairs of places of scores [K]: the best with the worst, the second with the second-worst, and on.

    The middle one of an odd number is left out; of equal scores the first counts as the better one.
    """
    order = np.argsort(-scores, kind="stable")
    return [(int(order[k]), int(order[-1 - k])) for k in range(len(scores) // 2)]


def random_pairs(scores: Array, rng: np.random.Generator) -> Places:
    """Return K // 2 pairs of places at random, the higher score first: what ranked pairing is compared with."""
    drawn = rng.permutation(len(scores))[: len(scores) // 2 * 2].reshape(-1, 2)
    return [(int(a), int(b)) if scores[a] >= scores[b] else (int(b), int(a)) for a, b in drawn]


def rounded(strengths: Array, labels: Literal["soft", "hard"]) -> Array:
    """Return the strengths, or of hard labels whether each is above 1/2 (which itself stays)."""
    return strengths if labels == "soft" else 0.5 * (1.0 + np.sign(strengths - 0.5))


def length_bias(strengths: Array, lengths: Array) -> dict[str, float | None]:
    """Return how a judge's strengths [n] go with by how much the first response is longer than the second, [n].

    correlation: of ranks, None where one of them is constant. longer_preferred: how often the longer of two responses
    of different lengths is preferred; 1/2 for a judge to whom length means nothing.
    """
    correlation = spearman(strengths, lengths)
    told = (lengths != 0) & (strengths != 0.5)
    agrees = np.sign(lengths[told]) == np.sign(strengths[told] - 0.5)
    return {
        "correlation": None if np.isnan(correlation) else correlation,
        "longer_preferred": float(np.mean(agrees)) if told.any() else None,
    }


@final
@dataclass(frozen=True)
class JudgedRound:
    """The pairs of a round as the judge saw them; as JSON has them."""

    pairs: list[tuple[str, str, str]]
    shown_first: Array
    shown_second: Array
    identical: int

    @classmethod
    def read(cls, found: dict[str, Any]) -> "JudgedRound":
        """Return what a round wrote."""
        pairs = [(prompt, better, worse) for prompt, better, worse in found["pairs"]]
        return cls(pairs, np.array(found["shown_first"]), np.array(found["shown_second"]), found["identical"])

    def verdicts(self) -> "Verdicts":
        """Return both orders' probabilities."""
        from rlhf_game.training_backends.trainers.self_training import Verdicts

        return Verdicts(self.shown_first, self.shown_second)


def train_osp(fields: OspConfig, task: Task) -> dict[str, Any]:
    """Do what is left of a training, and return its metrics."""
    prompts, _ = prompts_of(fields.prompts, task.base)
    asked = list(dict.fromkeys(prompts))
    order = [asked[k] for k in np.random.default_rng(fields.seed).permutation(len(asked))]
    held = max(1, round(fields.test_share * len(order)))
    test, training = order[:held], order[held:]
    if len(training) < fields.rounds:
        raise InputError(
            f"rounds: must be at most the {len(training)} prompts that are not held out, found {fields.rounds}"
        )
    judge, metrics_of_judge = _make_judge(fields, task)
    start, rounds = None, []
    for number in range(fields.rounds * fields.passes):
        part = training[number % fields.rounds :: fields.rounds]
        folder = task.path / "rounds" / f"{number:04d}"
        rounds.append(_play(fields, number, part, start, judge, folder, task))
        start = str((folder / "policy").resolve())
    final, outputs = _compare(fields, test, judge, folder / "policy", task)
    publish(task.workspace, folder / "policy")
    return {
        "kind": fields.kind,
        "prompts": {"training": len(training), "held_out": len(test)},
        **({} if metrics_of_judge is None else {"judge": metrics_of_judge}),
        "rounds": rounds,
        "final": final,
        "outputs": outputs,
    }


def _make_judge(fields: OspConfig, task: Task) -> tuple["PairJudge", dict[str, Any] | None]:
    """Return the judge; one that learns from human preferences is trained first, and compared with what it was."""
    from rlhf_game.training_backends import load_language_model
    from rlhf_game.training_backends.trainers.policies import load_policy
    from rlhf_game.training_backends.trainers.self_training import PairJudge, judge_examples, train_supervised

    spec, name = fields.judge, fields.judge.model or fields.model
    prompt = spec.prompt()
    plain = PairJudge(load_language_model(name, base=task.base, device=fields.device), prompt)
    if spec.augment is None:
        return plain, None
    draws, halves = np.random.default_rng(fields.seed).spawn(2)
    training, test = read_data(spec.augment, task.base).held_out(spec.augment.test_share, draws)
    examples = judge_examples([(row.prompt, row.chosen, row.rejected) for row in training], prompt, halves)
    folder = task.path / "judge"
    train_supervised(spec.training.training(name, fields.seed), examples, folder, base=task.base, watch=task.watch)
    augmented = PairJudge(load_policy(folder, device=fields.device), prompt)
    task.watch("judge preferences", 0, 1)
    measured = task.workspace.kept(
        task.path / "judge.json",
        lambda: {"before": _worth(plain, test), "after": _worth(augmented, test)},
    )
    return augmented, measured


def _worth(judge: "PairJudge", rows: Rows) -> dict[str, Any]:
    """Return what a judge is worth on human preferences."""
    verdicts = judge.compare([(row.prompt, row.chosen, row.rejected) for row in rows])
    lengths = np.array([len(str(row.chosen)) - len(str(row.rejected)) for row in rows], dtype=np.float64)
    strengths = verdicts.strengths
    return {
        "pairs": len(rows),
        "accuracy": float(np.mean((strengths > 0.5) + 0.5 * (strengths == 0.5))),
        "position_bias": verdicts.position_bias,
        "consistency": verdicts.consistency,
        "length_bias": length_bias(strengths, lengths),
    }


def _play(
    fields: OspConfig,
    number: int,
    prompts: Sequence[str],
    start: str | None,
    judge: "PairJudge",
    folder: Path,
    task: Task,
) -> dict[str, Any]:
    """Do what is left of one round, and return its metrics."""
    from rlhf_game.training_backends.trainers.preferences import train_preferences

    drawn = _draw(fields, number, prompts, start, folder, task)
    judged = JudgedRound.read(
        task.workspace.kept(folder / "judged.json", lambda: _judge(fields, number, prompts, drawn, judge, folder, task))
    )
    strengths = judged.verdicts().strengths
    trained = train_preferences(
        fields.training(start, seed_of(fields.seed, number)),
        judged.pairs,
        folder / "policy",
        columns={"strength": rounded(strengths, fields.labels).tolist()},
        base=task.base,
        watch=task.watch,
    )
    lengths = np.array([len(better) - len(worse) for _, better, worse in judged.pairs], dtype=np.float64)
    metrics = {
        "prompts": len(prompts),
        "pairs": len(judged.pairs),
        "identical_pairs": judged.identical,
        "strength": {
            "mean": float(strengths.mean()),
            "deciles": np.quantile(strengths, np.linspace(0.1, 0.9, 9)).tolist(),
            "as_ranked": float(np.mean(strengths >= 0.5)),
        },
        "position_bias": judged.verdicts().position_bias,
        "consistency": judged.verdicts().consistency,
        "length_bias": length_bias(strengths, lengths),
        "mean_length": float(np.mean([len(text) for row in drawn for text in row])),
        "training": {
            "steps": trained.steps,
            "dropped_pairs": trained.dropped,
            "first_loss": trained.log[0]["loss"],
            "last_loss": trained.log[-1]["loss"],
        },
    }
    gold = _gold(fields, prompts, drawn, folder / "gold.json", task)
    return metrics if gold is None else {**metrics, "gold": gold}


def _draw(
    fields: OspConfig, number: int, prompts: Sequence[str], start: str | None, folder: Path, task: Task
) -> list[list[str]]:
    """Return K responses of the policy as it is now to each prompt, [B][K]."""
    from rlhf_game.training_backends import load_reference, sample
    from rlhf_game.training_backends.trainers.policies import load_policy

    path, loaded = folder / "responses.json", list[Any]()

    def make(places: range) -> list[list[str]]:
        if not loaded:
            found = (
                load_reference(fields.reference, task.base)
                if start is None
                else load_policy(Path(start), device=fields.device)
            )
            loaded.append(found)
        seed = seed_of(fields.seed, number, places.start)
        rows = sample(
            loaded[0], [prompts[k] for k in places], fields.responses, seed=seed, sampling=fields.sampling(),
            system=fields.system,
        )  # fmt: skip
        return [[one.text for one in row] for row in rows]

    return in_parts(
        task.workspace, path, len(prompts), make, lambda done: task.watch(f"round {number}: draw", done, len(prompts))
    )


def _judge(
    fields: OspConfig,
    number: int,
    prompts: Sequence[str],
    drawn: list[list[str]],
    judge: "PairJudge",
    folder: Path,
    task: Task,
) -> dict[str, Any]:
    """Return the pairs with both orders' probabilities; responses are ranked against the empty one first."""
    k = fields.responses

    def rank(places: range) -> list[list[float]]:
        questions = [(prompts[b], text, "") for b in places for text in drawn[b]]
        return judge.compare(questions).strengths.reshape(-1, k).tolist()

    ranks = np.array(
        in_parts(
            task.workspace, folder / "ranks.json", len(prompts), rank,
            lambda done: task.watch(f"round {number}: rank", done, len(prompts)),
        )
    )  # fmt: skip
    rng = np.random.default_rng([fields.seed, number])
    found, identical = [], 0
    for b, prompt in enumerate(prompts):
        places = ranked_pairs(ranks[b]) if fields.pairing == "ranked" else random_pairs(ranks[b], rng)
        texts = [(drawn[b][first], drawn[b][second]) for first, second in places]
        identical += sum(first == second for first, second in texts)
        found += [(prompt, first, second) for first, second in texts if first != second]
    if not found:
        raise RunError(
            f"round {number}: all {k} responses to each prompt are the same: nothing can be learned; raise temperature "
            f"(now {fields.temperature}) or top_p (now {fields.top_p})"
        )
    task.watch(f"round {number}: judge", 0, 1)
    verdicts = judge.compare(found)
    return {
        "pairs": found,
        "shown_first": verdicts.shown_first.tolist(),
        "shown_second": verdicts.shown_second.tolist(),
        "identical": identical,
    }


def _gold(fields: OspConfig, prompts: Sequence[str], drawn: list[list[str]], path: Path, task: Task) -> float | None:
    """Return the gold reward's mean over responses [B][K]."""
    if fields.gold is None:
        return None
    reward = fields.gold.build(task.base)
    asked = [prompt for prompt, row in zip(prompts, drawn, strict=True) for _ in row]
    scores = task.workspace.kept(
        path, lambda: call_reward(reward, asked, [text for row in drawn for text in row]).tolist()
    )
    return float(np.mean(scores))


def _compare(
    fields: OspConfig, prompts: Sequence[str], judge: "PairJudge", folder: Path, task: Task
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return how the policy compares with the reference on held-out prompts, by the judge and in KL; and some texts."""
    from rlhf_game.training_backends import load_reference, sample
    from rlhf_game.training_backends.trainers.policies import load_policy
    from rlhf_game.training_backends.trainers.preferences import sequence_kl

    task.watch("compare with the reference", 0, 1)
    models = {
        "reference": load_reference(fields.reference, task.base),
        "policy": load_policy(folder, device=fields.device),
    }
    texts = {
        name: [
            [one.text for one in row]
            for row in sample(
                model, prompts, fields.test_responses, seed=seed_of(fields.seed, fields.rounds * fields.passes),
                sampling=fields.sampling(), system=fields.system,
            )
        ]
        for name, model in models.items()
    }  # fmt: skip
    rows = zip(prompts, texts["policy"], texts["reference"], strict=True)
    verdicts = judge.compare(
        [(prompt, *both) for prompt, mine, theirs in rows for both in zip(mine, theirs, strict=True)]
    )
    ratios = sequence_kl(
        models["policy"], models["reference"], prompts, per_prompt=fields.test_responses,
        max_new_tokens=fields.max_new_tokens, seed=fields.seed, system=fields.system,
    ).mean(axis=1)  # fmt: skip
    found: dict[str, Any] = {
        "preferred": float(verdicts.strengths.mean()),
        "position_bias": verdicts.position_bias,
        "mean_length": {name: float(np.mean([len(t) for row in drawn for t in row])) for name, drawn in texts.items()},
        "sequence_kl": {
            "estimate": float(ratios.mean()),
            "standard_error": standard_error(ratios),
        },
    }
    if fields.gold is not None:
        found["gold"] = {
            name: _gold(fields, prompts, drawn, task.path / f"gold-{name}.json", task) for name, drawn in texts.items()
        }
    before, after = ([row[0] for row in texts[name]] for name in ("reference", "policy"))
    return found, changed_outputs(prompts, before, after)
