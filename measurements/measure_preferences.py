"""Measure losses of preference pairs; writes the tables and figures of preferences.md and discovery.md.

Run ``python -m measurements.measure_preferences FOLDER`` (some minutes on one core; the same numbers every time on
the same machine). FOLDER keeps what is finished. The reference is a Llama of a few thousand weights over a dozen words
that was taught to end its sentences; each word has a known worth, and the reward of a response is their sum.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measurements.measured import DOCS, write_figure, write_table
from rlhf_game.discovery import discover, read_discovery
from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model
from rlhf_game.training_backends.lm.sampling import Sampling, sample
from rlhf_game.training_backends.trainers.policies import load_policy
from rlhf_game.training_backends.trainers.preferences import (
    LOSSES,
    PairBatch,
    PreferenceTraining,
    sequence_kl,
    train_preferences,
)
from tests import tiny
from tests.preferences import PROMPTS, VALUES, worth
from tests.trainings import made

PAGE = "preferences.md"
SHOWN = ("dpo", "ipo_summed", "slic", "lrml", "dbaql", "aql", "aql_code", "padll", "aqfl", "cell", "pfl")
FRONTIER = ("dpo", "ipo_summed", "slic", "lrml")
BETAS = (0.2, 0.5, 1.0, 2.0, 5.0)
PAIRS, STEPS, DRAWS, TOKENS = 1024, 192, 256, 10
ENOUGH = 100


def curves() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return margins, losses and slopes of each loss, the margins of the plot as one batch."""
    found = {}
    for name in SHOWN:
        z = (torch.arange(-300, 301, dtype=torch.float64) / 200).requires_grad_()  # 0 is one of them
        one = torch.ones_like(z)
        losses = LOSSES[name].of(PairBatch(z, torch.zeros_like(z), 1.0, z.detach(), one, one))
        (slopes,) = torch.autograd.grad(losses.sum(), z)
        found[name] = (z.detach().numpy(), losses.detach().numpy(), slopes.numpy())
    return found


def overlay() -> None:
    """Draw all losses and their gradients, and tabulate them at the reference."""
    known = curves()

    def draw(left: Any, right: Any) -> None:
        for k, (name, (z, losses, slopes)) in enumerate(known.items()):
            style = {"label": name, "color": f"C{k}", "linewidth": 1.2, "linestyle": ("-", "--")[k % 2]}
            left.plot(z, losses, **style)
            right.plot(z, slopes, **style)
        left.set(xlabel="z", title="loss", ylim=(0, 5))
        right.set(xlabel="z", title="gradient", ylim=(-4.5, 3))
        right.legend(fontsize=7, ncols=2)

    write_figure("preference_losses", draw, size=(9.0, 4.0))
    middle = 300
    rows = [
        [name, LOSSES[name].formula, f"{losses[middle]:.4f}", f"{slopes[middle]:+.3f}"]
        for name, (_, losses, slopes) in known.items()
    ]
    write_table(PAGE, "losses", ["loss", "formula", "at z = 0", "slope at z = 0"], rows)


def teach(folder: Path) -> Path:
    """Write the reference: a tiny model after some steps on sentences of two to five words."""
    if (folder / "config.json").exists():
        return folder
    tiny.save_language_model(folder.with_name("random"))
    model = load_language_model(str(folder.with_name("random")), device="cpu")
    rng, words = np.random.default_rng(0), list(VALUES)
    adam = torch.optim.Adam(model.model.parameters(), lr=3e-3)
    for _ in range(300):
        rows = []
        for _ in range(32):
            start = model.encode_prompt(str(rng.choice(PROMPTS)))
            sentence = " ".join(rng.choice(words, size=rng.integers(2, 6)))
            rows.append((start, [*model.tokenizer(sentence, add_special_tokens=False).input_ids, model.end_ids[0]]))
        longest = max(len(a) + len(b) for a, b in rows)
        ids = torch.tensor([a + b + [0] * (longest - len(a) - len(b)) for a, b in rows])
        labels = torch.tensor([[-100] * len(a) + b + [-100] * (longest - len(a) - len(b)) for a, b in rows])
        adam.zero_grad()
        model.model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        adam.step()
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def preferences(model: LanguageModel) -> list[tuple[str, str, str]]:
    """Pairs of the reference's own responses, labelled by Bradley-Terry with the known reward."""
    rng = np.random.default_rng(1)
    drawn = sample(model, PROMPTS, PAIRS, seed=1, sampling=Sampling(max_new_tokens=TOKENS))
    found = []
    for prompt, row in zip(PROMPTS, drawn, strict=True):
        texts = [one.text for one in row if one.is_finished and one.text.strip()]
        for first, second in zip(texts[::2], texts[1::2], strict=False):
            if first != second:
                is_first = rng.random() < 1 / (1 + np.exp(value(second) - value(first)))
                found.append((prompt, first, second) if is_first else (prompt, second, first))
    return [found[k] for k in rng.permutation(len(found))[:PAIRS]]


def value(text: str) -> float:
    """The known reward; words that have no worth count nothing."""
    return worth(" ".join(word for word in text.split() if word in VALUES))


def point(policy: LanguageModel, reference: LanguageModel) -> dict[str, float]:
    """Reward and sequence KL of a policy, with standard errors, from draws of its own."""
    kl = sequence_kl(policy, reference, PROMPTS, per_prompt=DRAWS, max_new_tokens=TOKENS, seed=5)
    drawn = sample(policy, PROMPTS, DRAWS, seed=5, sampling=Sampling(max_new_tokens=TOKENS))
    rewards = np.array([[value(one.text) for one in row] for row in drawn])
    size = np.sqrt(rewards.size)
    return {
        "reward": float(rewards.mean()), "reward_error": float(rewards.std() / size), "kl": float(kl.mean()),
        "kl_error": float(kl.std() / size),
    }  # fmt: skip


def best(reference: LanguageModel) -> dict[float, tuple[float, float]]:
    """Reward and KL of q exp(r / beta) / Z, by reweighting draws of the reference, prompt by prompt.

    Only where the weights are worth ENOUGH equal ones for each prompt: what the reference never says has no weight.
    """
    drawn = sample(reference, PROMPTS, 8192, seed=9, sampling=Sampling(max_new_tokens=TOKENS))
    rewards = np.array([[value(one.text) for one in row] for row in drawn])
    found = {}
    for beta in np.geomspace(BETAS[0], 100.0, 40).tolist():
        weights = np.exp((rewards - rewards.max(axis=1, keepdims=True)) / beta)
        weights /= weights.mean(axis=1, keepdims=True)
        if (weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)).min() >= ENOUGH:
            found[beta] = (
                float((weights * rewards).mean()),
                float((weights * np.log(np.maximum(weights, 1e-300))).mean()),
            )
    return found


def best_at(kl: float, optimum: dict[float, tuple[float, float]]) -> str:
    """The highest reward at a KL, between the betas that are known."""
    by_kl = sorted((far, reward) for reward, far in optimum.values())
    if not by_kl[0][0] <= kl <= by_kl[-1][0]:
        return "not known"
    return f"{np.interp(kl, *zip(*by_kl, strict=True)):.2f}"


def frontier(work: Path) -> None:
    """Train each loss at each beta, and draw reward against KL."""
    reference = load_language_model(str(teach(work / "reference")), device="cpu")
    pairs = preferences(reference)
    points: dict[str, list[dict[str, float]]] = {}
    for name in FRONTIER:
        for beta in BETAS:
            known = work / f"{name}-{beta}.json"
            if not known.exists():
                training = made(
                    PreferenceTraining, str(work / "reference"), loss=name, beta=beta, steps=STEPS, learning_rate=1e-3,
                    batch_size=16, max_length=64, device="cpu", save_steps=1000,
                )  # fmt: skip
                trained = train_preferences(training, pairs, work / f"{name}-{beta}")
                found = point(load_policy(trained.folder, device="cpu"), reference)
                known.write_text(json.dumps({"beta": beta, "margin": trained.log[-1]["margin"], **found}))
            points.setdefault(name, []).append(json.loads(known.read_text()))
    start, optimum = point(reference, reference), best(reference)

    def draw(axes: Any) -> None:
        axes.plot([kl for _, kl in optimum.values()], [r for r, _ in optimum.values()], "k-", label="optimum")
        for name, row in points.items():
            axes.plot([p["kl"] for p in row], [p["reward"] for p in row], "o-", markersize=4, label=name)
        axes.plot([0], [start["reward"]], "k*", label="reference")
        axes.set(xlabel="KL(policy || reference), nats a response", ylabel="known reward")
        axes.legend(fontsize=8)

    write_figure("preference_frontier", draw, size=(6.0, 3.8), panels=1)
    rows = [
        [name, p["beta"], f"{p['reward']:.2f} ± {p['reward_error']:.2f}", f"{p['kl']:.2f} ± {p['kl_error']:.2f}",
         best_at(p["kl"], optimum)]
        for name, row in points.items() for p in row
    ]  # fmt: skip
    rows.append(
        ["reference", "", f"{start['reward']:.2f} ± {start['reward_error']:.2f}", "0", f"{start['reward']:.2f}"]
    )
    write_table(PAGE, "frontier", ["loss", "beta", "reward", "KL", "best at that KL"], rows)


def searches(work: Path) -> None:
    """Run the example's search with some seeds, and draw the first one."""
    rows = []
    for seed in range(3):
        text = (DOCS.parent / "examples" / "discover.yaml").read_text(encoding="utf-8")
        config = work / f"discover-{seed}.yaml"
        config.write_text(text.replace("\nseed: 0", f"\nseed: {seed}"), encoding="utf-8")
        finished = discover(read_discovery(config), work / f"discover-{seed}")
        found, gain = finished.result, finished.result["gain_over"]
        known = found["baselines"]
        rows.append([
            seed, f"`{found['best']['expression']}`", f"{found['best']['search']['score']:.3f}",
            f"{known['dpo']['search']['score']:.3f}", f"{found['best']['held_out']['score']:.3f}",
            *(f"{gain[name]['mean']:+.3f} ± {gain[name]['standard_error']:.3f}" for name in ("dpo", "slic", "lrml")),
            f"{found['candidates']['scored']} of {found['candidates']['proposed']}",
        ])  # fmt: skip
        if seed == 0:
            (DOCS / "figures" / "discovery.svg").write_bytes((finished.folder / "search.svg").read_bytes())
    heads = [
        "seed", "best loss found", "score", "of DPO", "held out", "more than DPO", "than SLiC", "than LRML", "scored",
    ]  # fmt: skip
    write_table("discovery.md", "searches", heads, rows)


def main(work: Path) -> None:
    """Measure everything, and write the tables and figures."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    overlay()
    searches(work)
    frontier(work)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
