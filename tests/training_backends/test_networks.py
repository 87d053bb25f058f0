"""Reward models from folders: where they are found, what adapters must hold, and what several of them share."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from rlhf_game import InputError
from rlhf_game.optimization import Lora
from rlhf_game.rewards import Mix, MixPart, RewardModel, Similarity, Unit
from rlhf_game.rewards.texts import Backbones, count_cut, sharing
from rlhf_game.training_backends.lm import checkpoints, reward_networks
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.reward_networks import CARD, Named, Networks, load_reward_model, save_head
from rlhf_game.training_backends.lm.scorers import Classifier, Embedder
from rlhf_game.training_backends.trainers.reward_training import Finetuning, finetune
from tests.preferences import preferences, triples
from tests.training_backends.cases import ARCHITECTURES, ENDS_IN_EOS, EOS, Case
from tests.training_backends.matrix import save_adapter, save_case, save_network
from tests.training_backends.test_matrix import PAIRS, as_transformers_does, check
from tests.trainings import made

CASE = Case(template=ENDS_IN_EOS)
LLAMA = ARCHITECTURES["Llama"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_case(
        tmp_path_factory.mktemp("case") / "model", save_network(tmp_path_factory.mktemp("llama"), LLAMA), LLAMA, CASE
    )


def scores(place: str, base: Path | None = None) -> Any:
    return load_reward_model(place, base=base).score(PAIRS)


def write_heads(folder: Path, backbone: Path, method: str, count: int = 2, **more: Any) -> list[str]:
    known = dict(checkpoints.find_checkpoint(str(backbone)).provenance)
    for k in range(count):
        place = folder / f"head{k}"
        place.mkdir()
        save_head(place, np.linspace(-1.0, 1.0 + k, 16), 0.0)
        (place / CARD).write_text(json.dumps({"backbone": known, "method": method, "eta": 0.01, **more}))
    return [str(folder / f"head{k}") for k in range(count)]


def test_a_relative_path_is_joined_with_the_folder_of_the_configuration_once(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(llama, tmp_path / "runs" / "model")
    monkeypatch.chdir(tmp_path)
    expected = scores(str(llama))
    np.testing.assert_array_equal(scores("model", Path("runs")), expected)
    np.testing.assert_array_equal(scores("runs/model"), expected)
    reward = RewardModel("model", base=Path("runs"))
    np.testing.assert_array_equal(reward([p for p, _ in PAIRS], [t for _, t in PAIRS]), expected)
    assert reward.provenance["model"] == "model"


def test_an_adapter_that_trl_trained_scores_as_peft_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The script of TRL's guide: a language model by a relative path, a LoRA, rows of plain text.
    from tests import tiny

    monkeypatch.chdir(tmp_path)
    tiny.save_language_model(Path("base"))
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in triples(preferences(16, seed=0))]
    with quiet_transformers():
        trainer = RewardTrainer(
            model="base",
            args=RewardConfig(
                "out",
                max_steps=2,
                report_to="none",
                bf16=False,
                activation_checkpointing=False,
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(r=2, task_type="SEQ_CLS", init_lora_weights=False),
        )
        trainer.train()
        trainer.save_model("adapter")
        base = AutoModelForSequenceClassification.from_pretrained("base", num_labels=1, dtype=torch.float32)
        known = PeftModel.from_pretrained(base, "adapter").eval()
        tokenizer = AutoTokenizer.from_pretrained("adapter")
    expected = [as_transformers_does(pair, known, tokenizer) for pair in PAIRS]
    np.testing.assert_allclose(scores("adapter"), expected, atol=1e-5)
    np.testing.assert_allclose(scores("../adapter", Path("base")), expected, atol=1e-5)
    settings = json.loads(Path("adapter/adapter_config.json").read_text())
    Path("adapter/adapter_config.json").write_text(json.dumps(settings | {"task_type": "CAUSAL_LM"}))
    with pytest.raises(InputError, match="must be an adapter of a reward model, task_type SEQ_CLS"):
        scores("adapter")
    Path("adapter/adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "./gone"}))
    with pytest.raises(InputError, match="gone must be an existing folder"):
        scores("adapter")


def test_an_adapter_without_its_head_is_refused(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from tests import tiny

    backbone = tiny.save_language_model(tmp_path / "lm")
    with quiet_transformers():
        save_adapter(tmp_path / "adapter", backbone, LLAMA, CASE)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: value for name, value in tensors.items() if "score" not in name}, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"must hold all that its backbone lacks, its weights lack score.weight"):
        scores(str(tmp_path / "adapter"))
    save_file({name: value for name, value in tensors.items() if "lora_A" not in name}, path, {"format": "pt"})
    with pytest.raises(
        InputError, match="must be an adapter that fits its backbone: UserWarning: Found missing adapter keys"
    ):
        scores(str(tmp_path / "adapter"))


def test_what_an_adapters_backbone_lacks_is_trained_and_kept(tmp_path: Path) -> None:
    # A masked language model has no pooler: an adapter that does not hold it would score with a random one.
    from transformers import AutoModelForMaskedLM, BertConfig

    bert = ARCHITECTURES["BERT"]
    place = save_case(tmp_path / "case", save_network(tmp_path / "bert", bert), bert, Case())
    settings = BertConfig.from_pretrained(place)
    AutoModelForMaskedLM.from_config(settings).save_pretrained(place)
    how = made(Finetuning, lora=Lora(rank=2), steps=2, batch_size=4, seed=7)
    finetune(str(place), triples(preferences(8, seed=0)), how, tmp_path / "out")
    (tmp_path / "other").mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(99)
        first = scores(str(tmp_path / "out"))
    np.testing.assert_array_equal(first, scores(str(tmp_path / "out")))
    assert "bert.pooler.dense" in json.loads((tmp_path / "out" / "adapter_config.json").read_text())["modules_to_save"]


@pytest.mark.parametrize("method", ["embedding", "head"])
def test_heads_on_one_backbone_find_load_and_read_it_once(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    names = write_heads(tmp_path, llama, method)
    alone = [scores(name) for name in names]
    done: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            done[name] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    counted(reward_networks, "load_backbone")
    counted(reward_networks, "load_embedder")
    counted(Embedder, "embed")
    counted(Classifier, "features")
    hashed: Counter[Path] = Counter()
    real = checkpoints.hash_file
    monkeypatch.setattr(checkpoints, "hash_file", lambda path: hashed.update([path]) or real(path))
    groups = sharing([RewardModel(names[0]), Mix((MixPart(RewardModel(names[1]), Unit()),))])
    asked, texts = [prompt for prompt, _ in PAIRS], [text for _, text in PAIRS]
    np.testing.assert_allclose(groups[0](asked, texts), alone[0], atol=1e-6)
    np.testing.assert_allclose(groups[1].parts[0].reward.sharing(groups[1].backbones)(asked, texts), alone[1])
    loaded, read = (
        ("load_embedder", ["embed", "features"]) if method == "embedding" else ("load_backbone", ["features"])
    )
    assert done[loaded] == 1
    assert all(done[name] <= 1 for name in read)
    assert hashed[llama / "model.safetensors"] == 1
    assert not np.allclose(alone[0], alone[1])


def test_backbones_are_not_sent_to_other_processes() -> None:
    import pickle

    backbones = Backbones()
    assert backbones.networks is backbones.networks
    assert "networks" not in vars(pickle.loads(pickle.dumps(backbones)))


def test_long_texts_are_refused_or_cut_as_declared(llama: Path, tmp_path: Path) -> None:
    (plain,) = write_heads(tmp_path, llama, "embedding", 1)
    long = [("good", "yes " * 40 + "no " * 40), ("good", "yes"), ("bad", "no " * 90)]
    with pytest.raises(InputError, match="must fit the 64 tokens that the model reads, found 81; declare truncate"):
        load_reward_model(plain).score(long)
    networks = Networks()
    head, tail = (networks.reward_model(Named(plain, truncate=end)) for end in ("head", "tail"))  # type: ignore[arg-type]
    assert head.count_cut(long) == tail.count_cut(long) == 2
    first = [("good", "yes " * 40 + "no " * 23)]
    last = [("", "yes " * 24 + "no " * 40)]
    np.testing.assert_allclose(head.score(long)[0], head.score(first)[0], atol=1e-6)
    assert head.score(long)[0] != pytest.approx(tail.score(long)[0], abs=1e-6)
    np.testing.assert_allclose(tail.score(long)[0], tail.score(last)[0], atol=1e-6)
    asked, texts = [prompt for prompt, _ in long], [text for _, text in long]
    groups = Mix(
        (MixPart(RewardModel(plain, truncate="head"), Unit()), MixPart(RewardModel(plain, truncate="tail"), Unit()))
    )
    assert count_cut(groups, asked, texts) == 4
    assert count_cut(Similarity("good", str(llama), truncate="head"), asked, texts) == 2
    with pytest.raises(InputError, match="declare truncate"):
        Similarity("good", str(llama))(asked, texts)


def test_the_card_says_what_a_head_was_fitted_to(llama: Path, tmp_path: Path) -> None:
    (name,) = write_heads(tmp_path, llama, "embedding", 1, truncate="tail")
    long = [("good", "yes " * 40 + "no " * 40)]
    assert load_reward_model(name).count_cut(long) == 1


def test_roberta_reads_two_tokens_less_than_it_has_positions(tmp_path: Path) -> None:
    roberta = ARCHITECTURES["RoBERTa"]
    check(tmp_path / "case", save_network(tmp_path / "roberta", roberta), roberta, Case())
    scorer = load_reward_model(str(tmp_path / "case"))
    fits = [("good", "yes " * 58)]  # 62 tokens: pad id 1 takes the first two of its 64 positions
    assert np.isfinite(scorer.score(fits)).all()
    with pytest.raises(InputError, match="must fit the 62 tokens that the model reads, found 63"):
        scorer.score([("good", "yes " * 59)])
    other = load_reward_model(str(save_case(tmp_path / "other", tmp_path / "roberta", roberta, Case(pad=EOS))))
    with pytest.raises(InputError, match="must fit the 61 tokens that the model reads"):
        other.score(fits)


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    gpt2 = ARCHITECTURES["GPT-2"]
    place = save_case(tmp_path / "case", save_network(tmp_path / "gpt2", gpt2), gpt2, Case())
    with pytest.raises(InputError, match="must have at least one token"):
        load_reward_model(str(place)).score([("", " ")])
