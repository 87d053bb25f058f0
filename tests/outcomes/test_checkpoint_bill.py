"""``settle --policy`` and ``--draws``: the bill of a checkpoint from elsewhere, where the truth is known."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from peft import LoraConfig, get_peft_model
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from tests import tiny
from tests.cli.runner import Result
from tests.cli.runner import run as command
from tests.outcomes.listed import LONGEST, SIZES, STRENGTH, Truth, document
from tests.training_backends.trainers.policies.enumerable import END, PROMPT, responses, save_model

OUTCOMES: dict[str, Any] = {"max_new_tokens": LONGEST, "samples": 300, "choosing": 100, "size_limit": 2}
Settle = Callable[..., Result]


@pytest.fixture(scope="module")
def checkpoints(place: Path) -> Path:
    """Two checkpoints that were made elsewhere: ``better``, the reference moved towards the rewards, and ``worse``."""
    save_model(place / "worse", seed=1)
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    truth = Truth(load_language_model(str(place / "model")))
    wanted = torch.tensor(truth.optimum(SIZES), dtype=torch.float32)
    listed = responses(LONGEST)
    reader = load_language_model(str(place / "model"))
    prompt = reader.encode_prompt(PROMPT)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):  # of nobody's trainer: the cross entropy to the closed form, over all responses
        ids = torch.tensor([[*prompt, *response, *[0] * (LONGEST - len(response))] for response in listed])
        steps = model(ids).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
        picked = steps.gather(-1, ids[:, len(prompt) :, None])[..., 0]
        kept = torch.tensor([[t < len(response) for t in range(LONGEST)] for response in listed])
        loss = -(wanted * (picked * kept).sum(1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(place / "better")
    reader.tokenizer.save_pretrained(place / "better")
    return place


@pytest.fixture
def settle(checkpoints: Path, tmp_path: Path) -> Settle:
    def settle(*options: object, outcomes: dict[str, Any] | None = None, **changes: Any) -> Result:
        asked = {**document({**OUTCOMES, **(outcomes or {})}), "settlement_seed": 3, **changes}
        asked.pop("model")
        if "--draws" in options:  # whose rows have the rewards
            asked["groups"] = [{key: of for key, of in group.items() if key != "reward"} for group in asked["groups"]]
        (tmp_path / "groups.json").write_text(json.dumps(asked))
        return command("settle", "--groups", tmp_path / "groups.json", *options)

    return settle


@pytest.fixture(scope="module")
def truth(checkpoints: Path) -> Truth:
    return Truth(load_language_model(str(checkpoints / "model")))


def holds(interval: dict[str, float], value: float) -> bool:
    return interval["low"] - 1e-9 <= value <= interval["high"] + 1e-9


def test_a_checkpoint_in_a_bill_out(settle: Settle, checkpoints: Path, truth: Truth, tmp_path: Path) -> None:
    out = tmp_path / "receipt.json"
    result = settle("--policy", checkpoints / "better", "--reference", checkpoints / "model", "-o", out)
    assert (result.code, result.err) == (0, "")
    assert "affine welfare of the untouched model" in result.out
    assert "each with probability 0.95 (total revenue: 0.9), over all" in result.out  # where both bills hold
    assert "trained elsewhere: it is known by its draws alone" in result.out
    receipt = json.loads(out.read_text())
    p = truth.of(load_language_model(str(checkpoints / "better")))
    assert receipt["delivered"] == "final"
    assert receipt["policy"]["folder"] == str(checkpoints / "better")
    assert (receipt["cost"]["trainings"], receipt["trainer"]["name"]) == (0, "elsewhere")
    assert holds(receipt["certificate"]["gap"], truth.best(SIZES) - truth.welfare(p, SIZES))
    assert holds(receipt["divergence"], float(p @ np.log(p / truth.q)))
    assert holds(receipt["affine_social_welfare"], truth.welfare(p, SIZES))
    assert holds(receipt["untouched_affine_social_welfare"], truth.welfare(truth.q, SIZES))
    for i, group in enumerate(receipt["groups"]):
        assert holds(group["value"], float(truth.rewards[i] @ p))
        assert holds(group["affine_payment"], truth.payments(p)[i])
        assert group["payment"]["estimate"] == pytest.approx(truth.payments(truth.optimum(SIZES))[i], abs=0.08)
    folder = tmp_path / "receipt.run"
    assert command("verify", out, folder / "game.json").code == 0
    assert command("verify", folder).code == 0
    again = settle("--policy", checkpoints / "better", "--reference", checkpoints / "model", "-o", out, "--json")
    assert json.loads(again.out) == receipt
    alike = {**document({"kind": "finetuned", "policy": "better", **OUTCOMES}), "settlement_seed": 3}
    (checkpoints / "run.json").write_text(json.dumps(alike))
    ran = json.loads(command("run", checkpoints / "run.json", "-o", tmp_path / "run", "--json").out)
    assert ran["groups"] == receipt["groups"]
    (checkpoints / "better" / "generation_config.json").touch()
    weights = checkpoints / "better" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    changed = command("verify", out, folder / "game.json")
    weights.write_bytes(whole)
    assert (changed.code, changed.out.partition(":")[0]) == (3, "policy.sha256")


def test_after_kill_9_the_same_bill(settle: Settle, checkpoints: Path, tmp_path: Path) -> None:
    """A process that dies at any of its renames leaves nothing half-written, and the next one ends with the same."""
    given = ("--policy", checkpoints / "better", "--reference", checkpoints / "model")
    small = {"samples": 90, "choosing": 10}  # two pieces of each policy

    def settled(name: str, dies_at: int | None = None) -> int:
        child = os.fork()
        if child == 0:
            renames, replace = iter(range(10_000)), os.replace

            def dying(*paths: Any, **named: Any) -> None:
                if next(renames) == dies_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(*paths, **named)

            os.replace = dying
            os._exit(settle(*given, "-o", tmp_path / name / "receipt.json", outcomes=small).code)
        return os.waitpid(child, 0)[1]

    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    assert settled("whole") == 0
    deaths = [settled("stopped", dies_at=k) for k in (2, 4, 1)]
    assert deaths == [signal.SIGKILL] * len(deaths)
    assert not (tmp_path / "stopped/receipt.json").exists()
    assert settled("stopped") == 0
    for name in ("receipt.json", "receipt.run/samples.parquet", "receipt.run/game.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name
    assert command("verify", tmp_path / "stopped/receipt.run").code == 0
    left = {path.name for path in (tmp_path / "stopped/receipt.run").iterdir()}
    assert left == {path.name for path in (tmp_path / "whole/receipt.run").iterdir()}


def test_what_made_things_worse_is_not_delivered(
    settle: Settle, checkpoints: Path, truth: Truth, tmp_path: Path
) -> None:
    p = truth.of(load_language_model(str(checkpoints / "worse")))
    assert truth.welfare(p, SIZES) < truth.welfare(truth.q, SIZES)
    given = ("--policy", checkpoints / "worse", "--reference", checkpoints / "model")
    for rule in ("samples", "reference"):
        result = settle(*given, "-o", tmp_path / f"{rule}.json", outcomes={"payments_from": rule})
        assert "delivered: the untouched model" in result.out
        assert "affine welfare of the untouched model" in result.out
        assert ("near the bill of the optimum, even where nothing was learned" in result.out) == (rule == "samples")
        receipt = json.loads((tmp_path / f"{rule}.json").read_text())
        assert (receipt["delivered"], receipt["policy"], receipt["divergence"]["estimate"]) == ("reference", None, 0.0)
        untouched = receipt["untouched_affine_social_welfare"]
        assert receipt["affine_social_welfare"]["estimate"] == pytest.approx(untouched["estimate"], rel=1e-12)
        for i, group in enumerate(receipt["groups"]):
            assert holds(group["value"], float(truth.rewards[i] @ truth.q))
            assert holds(group["affine_payment"], truth.payments(truth.q)[i])
        assert command("verify", tmp_path / f"{rule}.json", tmp_path / f"{rule}.run/game.json").code == 0
    kept = settle(*given, "--json", outcomes={"choosing": 0})
    assert json.loads(kept.out)["delivered"] == "final"


def test_an_adapter_goes_on_the_reference_where_its_own_backbone_is_not_here(
    settle: Settle, checkpoints: Path, truth: Truth, tmp_path: Path
) -> None:
    backbone = AutoModelForCausalLM.from_pretrained(checkpoints / "model", dtype=torch.float32)
    with quiet_transformers(), torch.random.fork_rng(), torch.no_grad():
        tuned = get_peft_model(backbone, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
        torch.manual_seed(0)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
        tuned.save_pretrained(tmp_path / "adapter")
    described = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(
        json.dumps({**described, "base_model_name_or_path": "/elsewhere/model"})
    )
    merged = tuned.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("tokenizer*"))  # as engines may save it; the reference reads and writes
    bills = [
        json.loads(
            settle(
                "--policy", tmp_path / name, "--reference", checkpoints / "model", "--json", outcomes={"choosing": 0}
            ).out
        )
        for name in ("adapter", "merged")
    ]
    assert bills[0]["divergence"]["estimate"] > 0.001
    for mine, theirs in zip(bills[0]["groups"], bills[1]["groups"], strict=True):
        assert mine["payment"]["estimate"] == pytest.approx(theirs["payment"]["estimate"], abs=1e-5)
        assert mine["value"]["estimate"] == pytest.approx(theirs["value"]["estimate"], abs=1e-5)


def test_what_is_no_checkpoint_of_the_reference_is_refused(settle: Settle, checkpoints: Path, tmp_path: Path) -> None:
    tiny.save_language_model(tmp_path / "other")
    shutil.copytree(tmp_path / "other", tmp_path / "trainer" / "checkpoint-9")
    shutil.copytree(tmp_path / "other", tmp_path / "trainer" / "checkpoint-10")
    last = "outcomes.policy: must be one checkpoint, found 2 in"
    given = ("--policy", checkpoints / "better", "--reference", checkpoints / "model")
    for options, changes, said in (
        (("--policy", tmp_path / "other", "--reference", checkpoints / "model"), {}, "must have the tokens of the ref"),
        (("--policy", tmp_path, "--reference", checkpoints / "model"), {}, "outcomes.policy: /"),
        (("--policy", tmp_path / "trainer", "--reference", checkpoints / "model"), {}, last),
        (("--policy", checkpoints / "better"), {}, "--reference: must name the untouched model, or"),
        (("--policy", "nowhere", "--reference", checkpoints / "model"), {}, "outcomes.policy: must be a folder with a"),
        (given, {"outcomes": {"payments_from": "leave_one_out"}}, "payments_from: must be samples or reference"),
        (given, {"outcomes": {"stpes": 3}}, "outcomes.stpes: "),
        (given, {"outcomes": {"kind": "candidates", "per_prompt": 3}}, "outcomes: must be those of kind finetuned"),
        (given, {"outcomes": {"choosing": 1}}, "choosing: must be 0 or at least 2"),
        ((*given, "--draws", tmp_path / "none.parquet"), {}, "none.parquet: must be a file, found nothing there"),
        (("--reference", "x"), {}, "--policy: must be given"),
        (("game.yaml", *given), {}, "game.yaml: must not be here"),
    ):  # fmt: skip
        result = settle(*options, **changes)
        assert (result.code, result.out) == (2, ""), said
        assert said in result.err
        assert result.err.count("\n") == 1
    assert command("settle", "--policy", checkpoints / "better").code == 2
    assert command("settle").code == 2


def test_weights_that_are_no_numbers_or_not_all_there_are_refused(
    settle: Settle, checkpoints: Path, tmp_path: Path
) -> None:
    """What a checkpoint lacks would be made up, and half an adapter would be another policy than the one trained."""
    head, kept = "lm_head.weight", "v_proj"

    def changed(source: Path, name: str, file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        shutil.copytree(source, tmp_path / name)
        tensors = load_file(tmp_path / name / file)
        change(tensors)
        save_file(tensors, tmp_path / name / file, metadata={"format": "pt"})
        return tmp_path / name

    with quiet_transformers(), torch.random.fork_rng():
        backbone = AutoModelForCausalLM.from_pretrained(checkpoints / "model", dtype=torch.float32)
        lora = LoraConfig(r=2, target_modules=["q_proj", kept], task_type="CAUSAL_LM")
        get_peft_model(backbone, lora).save_pretrained(tmp_path / "adapter")
    whole, file, unknown = checkpoints / "better", "model.safetensors", "gives no probabilities: its logits are no numb"
    half, lacks = "Found missing adapter keys", f"must hold every weight of a language model, lacks {head}"
    for policy, code, said in (
        (changed(whole, "nan", file, lambda known: known[head][3].fill_(float("nan"))), 1, unknown),
        (changed(whole, "inf", file, lambda known: known[head][3].fill_(float("inf"))), 1, unknown),
        (changed(whole, "headless", file, lambda known: known.pop(head)), 2, lacks),
        (changed(tmp_path / "adapter", "half", "adapter_model.safetensors",
                 lambda known: [known.pop(key) for key in list(known) if kept in key]), 2, half),
    ):  # fmt: skip
        result = settle("--policy", policy, "--reference", checkpoints / "model", "-o", tmp_path / "receipt.json")
        assert (result.code, result.out) == (code, ""), policy.name
        assert said in result.err, result.err
        assert result.err.count("\n") == 1
        assert not (tmp_path / "receipt.json").exists()
        shutil.rmtree(tmp_path / "receipt.run", ignore_errors=True)


@cache
def law(truth: Truth, policy: Path) -> tuple[np.ndarray, list[str]]:
    """The probability of each response under a checkpoint, and its text."""
    model = load_language_model(str(policy))
    return truth.of(model), [model.decode(list(ids)) for ids in responses(LONGEST)]


def drawn(checkpoints: Path, truth: Truth, path: Path, **columns: Any) -> Path:
    """Write draws as somebody would make them, from the listed probabilities. columns: put over what is right."""
    p, texts = law(truth, checkpoints / "better")
    rng, rows = np.random.default_rng(4), []
    for source, chances in (("policy", p), ("reference", truth.q)):
        for k in rng.choice(p.size, size=400, p=chances):
            rows.append(
                {"prompt": PROMPT, "response": texts[k], "source": source, "log_policy": float(np.log(p[k])),
                 "log_reference": float(np.log(truth.q[k])), "token_ids": list(responses(LONGEST)[k]),
                 "is_finished": responses(LONGEST)[k][-1] == END,
                 "first": float(truth.rewards[0, k]), "second": float(truth.rewards[1, k])}
            )  # fmt: skip
    table = pyarrow.Table.from_pylist(rows)
    for name, values in columns.items():
        new = [values(row) for row in rows]
        table = table.drop_columns([name] if name in table.column_names else []).append_column(name, [new])
    parquet.write_table(table, path)
    return path


def test_draws_that_somebody_made_are_settled_as_our_own(
    settle: Settle, checkpoints: Path, truth: Truth, tmp_path: Path
) -> None:
    file = drawn(checkpoints, truth, tmp_path / "draws.parquet")
    result = settle("--draws", file, "-o", tmp_path / "receipt.json", "--json", outcomes={"choosing": 100})
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    p, _ = law(truth, checkpoints / "better")
    assert holds(receipt["certificate"]["gap"], truth.best(SIZES) - truth.welfare(p, SIZES))
    assert holds(receipt["divergence"], float(p @ np.log(p / truth.q)))
    for i, group in enumerate(receipt["groups"]):
        assert holds(group["value"], float(truth.rewards[i] @ p))
        assert holds(group["affine_payment"], truth.payments(p)[i])
    assert (receipt["seed_from"], receipt["settlement_seed"], receipt["certificate"]["regret_bound"]) == (
        "draws", None, None,
    )  # fmt: skip
    assert command("verify", tmp_path / "receipt.json", tmp_path / "receipt.run/game.json").code == 0
    assert command("verify", tmp_path / "receipt.run").code == 0
    assert command("report", tmp_path / "receipt.run").code == 0
    models = ("--policy", checkpoints / "better", "--reference", checkpoints / "model")
    named = json.loads(settle("--draws", file, *models, "--json", outcomes={"choosing": 100}).out)
    for mine, theirs in zip(named["groups"], receipt["groups"], strict=True):
        assert mine["payment"]["estimate"] == pytest.approx(theirs["payment"]["estimate"], abs=1e-5)
    none = dict.fromkeys(("log_policy", "log_reference"), lambda row: None)
    empty = {"token_ids": lambda row: None if row["response"] else row["token_ids"]}  # of tokens that are no words
    bare = drawn(checkpoints, truth, tmp_path / "bare.parquet", **none, **empty)
    bill = settle("--draws", bare, *models, "--json")
    assert bill.err == ""
    assert json.loads(bill.out)["policy"]["folder"].endswith("better")


def test_rollouts_of_a_training_give_no_certificate(
    settle: Settle, checkpoints: Path, truth: Truth, tmp_path: Path
) -> None:
    models = ("--policy", checkpoints / "better", "--reference", checkpoints / "model")
    for name, options, columns, said in (
        ("steps", (), {"step": lambda row: 3}, "row 1: step: must not be here: rollouts of a training"),
        ("earlier", models, {"log_policy": lambda row: row["log_policy"] - 0.2}, "that of the named checkpoint"),
        ("other", models, {"log_reference": lambda row: row["log_reference"] + 0.2}, "log_reference: must be that of"),
        ("blind", (), {"log_policy": lambda row: None}, "row 1: log_policy: must be given unless"),
        ("source", (), {"source": lambda row: "final"}, "row 1: source: must be policy or reference, found 'final'"),
        ("lone", (), {"source": lambda row: "policy"}, "source: must be reference in as many rows of each prompt"),
        ("wide", (), {"second": lambda row: 1.5}, "groups[1].calibration: "),
        ("noisy", (), {"first": lambda row: abs(hash(row["log_policy"] + len(row["source"]))) % 7 / 10}, "must be the"),
        ("above", (), {"log_policy": lambda row: 3.0}, "row 1: log_policy: must be a log probability, at most 0"),
        ("unsure", (), {"log_reference": lambda row: -1.0 - 5.0 * (row["source"] == "policy")},
         "log_reference: must be that of the same response before it"),
        ("poor", (), {"first": lambda row: None}, "row 1: first: must be given"),
    ):  # fmt: skip
        file = drawn(checkpoints, truth, tmp_path / f"{name}.parquet", **columns)
        result = settle("--draws", file, *options, "-o", tmp_path / f"{name}.json")
        assert (result.code, result.out) == (2, ""), name
        assert said in result.err, (name, result.err)
        assert not (tmp_path / f"{name}.json").exists()
    assert STRENGTH > 0


def test_what_the_named_models_cannot_say_is_no_draw(
    settle: Settle, checkpoints: Path, truth: Truth, tmp_path: Path
) -> None:
    """Token ids of another, likelier response took its probability for words that the rewards liked."""
    models = ("--policy", checkpoints / "better", "--reference", checkpoints / "model")
    drawn(checkpoints, truth, tmp_path / "draws.parquet", log_policy=lambda _: None, log_reference=lambda _: None)
    rows = parquet.read_table(tmp_path / "draws.parquet").to_pylist()
    rows = rows[:30] + rows[400:430]
    other = next(row["token_ids"] for row in rows if row["response"] != rows[0]["response"])
    whole = "must end with a token that ends a response, or be cut after 2 tokens (outcomes.max_new_tokens), found"
    for changes, said in (
        ({}, ""),
        ({"token_ids": other}, "line 1: response: must be what its tokens say"),
        ({"response": "zebra", "token_ids": None}, "line 1: response: must be what its tokens say, '', found 'zebra'"),
        ({"token_ids": [10**9]}, "line 1: token_ids: must be of the model's 6 tokens, found 1000000000"),
        ({"token_ids": [2**70]}, "line 1: token_ids: must be of the model's 6 tokens, found 1180591620717411303424"),
        ({"token_ids": [6]}, "line 1: token_ids: must be of the model's 6 tokens, found 6"),
        ({"token_ids": [-1]}, "line 1: token_ids: must be a list of integers >= 0"),
        ({"response": "a", "token_ids": [2]}, f"line 1: token_ids: {whole} 1"),
        ({"response": "a a", "token_ids": [2, END, 2]}, f"line 1: token_ids: {whole} 3"),
        ({"response": "a a a", "token_ids": [2, 2, 2]}, f"line 1: token_ids: {whole} 3"),
        ({"response": "a a a", "token_ids": None, "is_finished": True}, "response: must be of at most 2 tokens"),
        ({"response": "", "token_ids": None, "is_finished": False}, f"line 1: token_ids: {whole} 0"),
        ({"is_finished": "no"}, 'line 1: is_finished: must be true or false, found the text "no"'),
        ({"prompt": "a " * 500}, "prompts[0] must leave room for max_new_tokens = 2 in the model's 16 tokens"),
    ):
        changed = [{**row, **changes} if k == 0 or "prompt" in changes else row for k, row in enumerate(rows)]
        (tmp_path / "draws.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
        result = settle("--draws", tmp_path / "draws.jsonl", *models, "--json", outcomes={"choosing": 10})
        assert result.code == (2 if said else 0), (changes, result.err)
        assert said in result.err, (changes, result.err)


def test_a_group_takes_no_column_that_says_something_else(
    settle: Settle, checkpoints: Path, truth: Truth, tmp_path: Path
) -> None:
    """A group called log_policy had the log probabilities as its rewards."""
    file = drawn(checkpoints, truth, tmp_path / "draws.parquet")
    groups = [{"name": name, "size": 1, "calibration": {"kind": "affine", "low": -9, "high": 1}}
              for name in ("first", "log_policy")]  # fmt: skip
    result = settle("--draws", file, "-o", tmp_path / "receipt.json", groups=groups)
    assert (result.code, result.out) == (2, "")
    assert "groups[1].name: must be a column of rewards, found 'log_policy'" in result.err


def test_a_reward_beside_the_columns_is_refused_and_not_ignored(
    checkpoints: Path, truth: Truth, tmp_path: Path
) -> None:
    file = drawn(checkpoints, truth, tmp_path / "draws.parquet")
    asked = document(OUTCOMES)
    asked.pop("model")
    for reward, code in (({"brevity": 3}, 2), ({"column": "second"}, 2), ({"column": "first"}, 0)):
        groups = [{**asked["groups"][0], "reward": reward}, {"name": "second", "size": 1}]
        (tmp_path / "groups.json").write_text(json.dumps({**asked, "groups": groups}))
        result = command("settle", "--draws", file, "--groups", tmp_path / "groups.json", "--json")
        assert result.code == code, result.err
        assert ("groups[0].reward: must be left out" in result.err) == (code == 2)
