"""One reward model: trained by its method, written with its card, and asked for its rewards."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game import __version__
from rlhf_game.files.conversations import Text
from rlhf_game.files.run_folder import Progress, versions
from rlhf_game.files.workspace import Workspace
from rlhf_game.optimization import place_of_model
from rlhf_game.rewards.bradley_terry import Likelihood, LinearHead, fit_head
from rlhf_game.rewards.neural import Truncate
from rlhf_game.training.recipes.reward_models import MemberSpec, RewardModelFields
from rlhf_game.training.subsets import Rewards, Rows, Subsets

Frozen: TypeAlias = Literal["embedding", "head"]
Indices: TypeAlias = NDArray[np.int64]
CARD = "reward_model.json"
"""The last file of a reward model that is written: where it is, the model is whole."""


@final
@dataclass(frozen=True)
class SharedMemberData:
    """What the members of one training share: the data, and the frozen features that were computed already."""

    fields: RewardModelFields
    first_backbone: str
    base: Path
    workspace: Workspace
    subsets: Subsets
    watch: Progress
    computed: dict[tuple[str, str, str, Truncate | None], tuple[Rewards, dict[str, Any]]]

    def features(
        self, method: Frozen, backbone: str, name: str, truncate: Truncate | None
    ) -> tuple[Rewards, dict[str, Any]]:
        """Return the features [n, d] of both sides of the pairs called ``name``, and where the backbone comes from."""
        from rlhf_game.training_backends import frozen_features

        key = (method, backbone, name, truncate)
        if key not in self.computed:
            self.watch(f"features of {name}", 0, 1)
            rows = self.subsets.training if name == "training" else self.subsets.judged[name]
            chosen, rejected, origin = frozen_features(method, backbone, _pairs(rows), truncate=truncate)
            self.computed[key] = ((chosen, rejected), origin)
        return self.computed[key]


def train_member(spec: MemberSpec, out: Path, shared: SharedMemberData) -> None:
    """Train one reward model into the folder ``out``; one that is whole there is left as it is."""
    if not (out / CARD).exists():
        _train(spec, out, shared)


def push_member(spec: MemberSpec, out: Path) -> None:
    """Send a model that is whole to the hub, where its arguments for TRL say so."""
    if spec.trl.get("push_to_hub"):
        from rlhf_game.training_backends import push_folder

        is_private, revision = bool(spec.trl.get("hub_private_repo")), spec.trl.get("hub_revision")
        push_folder(
            out,
            str(spec.trl["hub_model_id"]),
            is_private=is_private,
            revision=None if revision is None else str(revision),
        )


def _train(spec: MemberSpec, out: Path, shared: SharedMemberData) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    backbone = place_of_model(spec.backbone, shared.base)
    size = len(shared.subsets.training)
    drawn = np.random.default_rng(spec.seed).integers(size, size=size) if spec.resample else np.arange(size)
    if spec.method in ("embedding", "head"):
        head, origin = _fit(spec, spec.method, backbone, drawn, shared)
        _write_head(out, head)
        done: dict[str, Any] = {"loss": head.loss, "gradient_norm": head.gradient_norm}
    else:
        done, origin = _finetune(spec, backbone, drawn, out, shared)
    shared.workspace.adopt(out)
    _write_card(out, _card(spec, origin, done, shared), shared.workspace)


def write_metrics(out: Path, judged: dict[str, Any], workspace: Workspace) -> None:
    """Put what a model is worth on each subset into its card; the same again where it stands there already."""
    _write_card(out, {**workspace.read_json(out / CARD), "metrics": judged}, workspace)


def _write_card(out: Path, card: dict[str, Any], workspace: Workspace) -> None:
    workspace.write(out / "README.md", _readme(card).encode())
    workspace.write_json(out / CARD, card)


def rewards_of(spec: MemberSpec | None, out: Path, shared: SharedMemberData) -> dict[str, Rewards]:
    """Return the rewards of all judged pairs by the model in ``out``; a linear head needs no new look at the texts."""
    from rlhf_game.training_backends import load_reward_model
    from rlhf_game.training_backends.lm.reward_networks import load_head

    if spec is not None and spec.method in ("embedding", "head"):
        weights, bias = load_head(out)
        backbone = place_of_model(spec.backbone, shared.base)
        found = {}
        for name in shared.subsets.judged:
            (chosen, rejected), _ = shared.features(spec.method, backbone, name, spec.truncate)
            found[name] = (chosen @ weights + bias, rejected @ weights + bias)
        return found
    scorer = load_reward_model(str(out))
    found = {}
    for k, (name, rows) in enumerate(shared.subsets.judged.items()):
        shared.watch(f"judge {out.name} on {name}", k, len(shared.subsets.judged))
        scores = scorer.score([(r.prompt, r.chosen) for r in rows] + [(r.prompt, r.rejected) for r in rows])
        found[name] = (scores[: len(rows)], scores[len(rows) :])
    return found


def _pairs(rows: Rows) -> list[tuple[Text, Text, Text]]:
    return [(row.prompt, row.chosen, row.rejected) for row in rows]


def _fit(
    spec: MemberSpec, method: Frozen, backbone: str, drawn: Indices, shared: SharedMemberData
) -> tuple[LinearHead, dict[str, Any]]:
    (chosen, rejected), origin = shared.features(method, backbone, "training", spec.truncate)
    # A decoder's score layer has no bias, so neither has a head that has to fit in it.
    likelihood = Likelihood(spec.eta, spec.ridge, spec.smoothing, has_bias=method == "embedding")
    shared.watch("fit", 0, 1)
    return fit_head(chosen[drawn], rejected[drawn], likelihood), origin


def _write_head(out: Path, head: LinearHead) -> None:
    from rlhf_game.training_backends.lm.reward_networks import save_head

    out.mkdir(exist_ok=True)
    save_head(out, head.weights, head.bias)


def _finetune(
    spec: MemberSpec, backbone: str, drawn: Indices, out: Path, shared: SharedMemberData
) -> tuple[dict[str, Any], dict[str, Any]]:
    from rlhf_game.training_backends import Finetuning, find_checkpoint, finetune

    head = None
    if spec.probe:
        # All members start from one head, fitted to all pairs as the first member's backbone sees them.
        first = place_of_model(shared.first_backbone, shared.base)
        probe, _ = _fit(spec, "head", first, np.arange(len(shared.subsets.training)), shared)
        head = (probe.weights, probe.bias)
    further = tuple(spec.training_arguments().items())
    how = Finetuning(
        spec.optimization(spec.lora if spec.method == "lora" else None, spec.seed, trl=further),
        max_length=spec.max_length,
        has_dropout=spec.has_dropout,
        eta=spec.eta,
        smoothing=spec.smoothing,
    )
    pairs = _pairs(shared.subsets.training)
    trained = finetune(backbone, [pairs[k] for k in drawn], how, out, head=head, watch=shared.watch)
    done = {"steps": trained.steps, "losses": list(trained.losses), "dropped_pairs": trained.dropped}
    return done, dict(find_checkpoint(backbone).provenance)


def _card(spec: MemberSpec, origin: dict[str, Any], done: dict[str, Any], shared: SharedMemberData) -> dict[str, Any]:
    fields = shared.fields
    return {
        "method": spec.method,
        "eta": spec.eta,
        **({} if spec.truncate is None else {"truncate": spec.truncate}),
        "backbone": {**origin, "model": place_of_model(spec.backbone, shared.base)},
        "data": {
            "source": shared.subsets.source,
            "sha256": shared.subsets.sha256,
            "training_pairs": len(shared.subsets.training),
            "flipped": fields.flip,
        },
        "seed": spec.seed,
        "settings": spec.model_dump(mode="json"),
        "training": done,
        "versions": versions(),
    }


def _readme(card: dict[str, Any]) -> str:
    level = "identified (eta > 0)" if card["eta"] > 0 else "only known up to a constant of each prompt (eta = 0)"
    lines = [*(_origin_of_average(card) if "averaged" in card else _origin(card)), f"* Level: {level}."]
    lines += [f"* Weights: safetensors only. The same as data, with versions: `{CARD}`.", ""]
    if "metrics" in card:
        lines += [
            "| on | pairs | accuracy | Brier | calibration error | length correlation |",
            "|---|---|---|---|---|---|",
        ]
        keys = ("accuracy", "brier", "calibration_error", "length_correlation")
        for subset, found in card["metrics"].items():
            lines.append(f"| {subset} | {found['pairs']} | " + " | ".join(f"{found[key]:.3f}" for key in keys) + " |")
        lines.append("")
    if "settings" in card:
        lines += ["```json", json.dumps(card["settings"], indent=1), "```", ""]
    return "# Reward model\n\n" + "\n".join(lines)


def _origin(card: dict[str, Any]) -> list[str]:
    data, backbone = card["data"], card["backbone"]["model"]
    return [
        f"A Bradley-Terry reward model made by rlhf-game {__version__}: `{card['method']}` on `{backbone}`, seed "
        f"{card['seed']}.",
        "",
        f"* Data: `{data['source']}` (sha256 {data['sha256']}), {data['training_pairs']} pairs.",
        f"* Share of training labels turned round: {data['flipped']}.",
    ]


def _origin_of_average(card: dict[str, Any]) -> list[str]:
    members = ", ".join(f"{one['weight']:.3g} of member {one['model']}" for one in card["averaged"])
    return [f"The average of the weights of reward models, score heads included, made by rlhf-game {__version__}.", "",
            f"* Members: {members}; their cards are in `members/`."]  # fmt: skip
