"""A language model as a policy space, and policies between trained ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_game import AffinePayments, AffineWelfare, CombinationError, InputError, Mechanism, Report, SocialWelfare
from rlhf_game.optimization import Lora
from rlhf_game.training_backends import finetuned
from rlhf_game.training_backends.finetuned import Finetuned, FinetunedPayments
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.lm.soups import interpolate, save_language_model, simplex_grid
from rlhf_game.training_backends.trainers.policies import PolicyTraining, load_policy
from tests.outcomes.listed import SIZES, STRENGTH, Truth
from tests.training_backends.trainers.policies.enumerable import END, PROMPT, REWARDS, responses, save_model
from tests.trainings import changed, made

REPORTS = [Report(reward, size=int(size)) for reward, size in zip(REWARDS.values(), SIZES, strict=True)]
Make = Callable[..., Finetuned]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("listed"))


@pytest.fixture
def training(model: Path) -> PolicyTraining:
    return made(
        PolicyTraining,
        str(model), STRENGTH, (1.0,), steps=25, learning_rate=1e-2, batch_size=128, num_generations=128,
        max_new_tokens=2, device="cpu", trl=(("adam_beta2", 0.95),),
    )  # fmt: skip


@pytest.fixture
def space(training: PolicyTraining, tmp_path: Path) -> Finetuned:
    return Finetuned(training, [PROMPT], tmp_path / "policies", samples=1500)


def test_a_mechanism_settles_over_a_language_model(space: Finetuned, model: Path) -> None:
    mechanism = Mechanism(SocialWelfare(), FinetunedPayments("leave_one_out"))
    settlement = mechanism.settle(REPORTS, space)
    truth = Truth(load_language_model(str(model)))
    p = truth.of(load_policy(settlement.policy.folder))
    assert settlement.values == pytest.approx(truth.rewards @ p, abs=0.02)
    assert settlement.policy.welfare == pytest.approx(truth.welfare(p, SIZES), abs=0.05)
    assert settlement.policy.divergence == pytest.approx(float(p @ np.log(p / truth.q)), abs=0.06)
    assert truth.best(SIZES) - truth.welfare(p, SIZES) <= settlement.policy.gap < SIZES.sum()
    assert settlement.payments == pytest.approx(truth.payments(p), abs=0.06)
    assert len(list(space.folder.iterdir())) == 3  # the policy, and one without each group
    profile = [space.read(report.reward) for report in REPORTS]
    assert settlement.policy.values(profile) == pytest.approx(settlement.values)
    alone = [space.maximize(np.where(np.arange(2) == i, 0.0, SIZES), profile).folder for i in range(2)]
    prices = STRENGTH * np.log(p / np.array([truth.of(load_policy(folder)) for folder in alone]))
    tokens = [settlement.token_prices(sequence) for sequence in responses(2)[::6]]
    np.testing.assert_allclose(np.array([one.sum(axis=1) for one in tokens]).T, prices[:, ::6], atol=1e-5)
    assert {one.shape for one in tokens} == {(2, 1), (2, 2)}
    assert len(list(space.folder.iterdir())) == 3  # the same policies without each group
    for sequence, prompt in (((END, 2), 0), ((2,), 0), ((2, 2, END), 0), ((END,), 1)):
        with pytest.raises(InputError, match=r"whole outcome|one of 1"):
            settlement.token_prices(sequence, prompt)


def test_nothing_is_trained_loaded_or_scored_twice(
    training: PolicyTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where training does nothing, what is asked of rewards is asked of draws: once for each text to a prompt."""
    made, loaded = [], []
    asked: list[dict[tuple[str, str], int]] = [{}, {}]

    def train(how: PolicyTraining, prompts: object, rewards: object, out: Path, **columns: object) -> None:
        made.append(how.weights)
        save_language_model(load_language_model(training.model.name), out)

    def load(folder: Path) -> object:
        loaded.append(folder)
        return load_language_model(str(folder))

    monkeypatch.setattr(finetuned, "train_policy", train)
    monkeypatch.setattr(finetuned, "load_policy", load)

    def counted(k: int) -> Callable[..., list[float]]:
        def reward(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
            for pair in zip(prompts, completions, strict=True):
                asked[k][pair] = asked[k].get(pair, 0) + 1
            return list(REWARDS.values())[k](prompts, completions)

        return reward

    place = Finetuned(changed(training, steps=1), [PROMPT, "b a"], tmp_path / "once", samples=40)
    reports = [Report(counted(0), 2), Report(counted(1), 1)]
    mechanism = Mechanism(SocialWelfare(), FinetunedPayments("leave_one_out"))
    settlement = mechanism.settle(reports, place)
    again = mechanism.settle(reports, place)
    assert settlement.payments.tolist() == again.payments.tolist()
    assert FinetunedPayments("leave_one_out").settle(again.trained).payments.value.tolist() == again.payments.tolist()
    assert made == [(2.0, 1.0), (1.0,), (2.0,)]
    assert len(set(loaded)) == len(loaded) == 3
    for one in asked:
        assert len({prompt for prompt, _ in one}) == 2
        assert set(one.values()) == {1}


def test_payments_that_suppose_an_optimum_are_refused(space: Finetuned) -> None:
    weak = Finetuned(changed(space.training, steps=1), [PROMPT], space.folder, samples=20)
    with pytest.raises(CombinationError, match="AffinePayments needs a policy that is exactly optimal"):
        Mechanism(SocialWelfare(), AffinePayments()).settle(REPORTS, weak)
    with pytest.raises(CombinationError, match="without a boost"):
        Mechanism(AffineWelfare(boost=REWARDS["first"]), FinetunedPayments()).settle(REPORTS, weak)
    nothing = weak.maximize(np.zeros(2), list(REWARDS.values()))
    assert (nothing.folder, nothing.welfare, nothing.gap) == (None, 0.0, 0.0)
    assert not nothing.draws.log_ratios.any()


def test_what_is_no_reward_of_texts_is_refused(space: Finetuned, training: PolicyTraining, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reward must be a function"):
        space.read([1, 0])
    with pytest.raises(InputError, match="numbers in \\[0, 1\\]"):
        space.read(lambda prompts, completions, **columns: [2.0] * len(completions))
    with pytest.raises(InputError, match="training.trainer must be rloo or ppo"):
        Finetuned(changed(training, trainer="grpo"), [PROMPT], tmp_path)


def test_a_grid_has_all_shares_once() -> None:
    found = list(simplex_grid(3, 4))
    assert len(found) == len(set(found)) == 15  # 6 over 2
    assert all(sum(shares) == 1 and min(shares) >= 0 for shares in found)
    assert list(simplex_grid(2, 1)) == [(1.0, 0.0), (0.0, 1.0)]


def test_soups_average_what_adapters_add_and_not_their_factors(
    space: Finetuned, training: PolicyTraining, tmp_path: Path
) -> None:
    adapted = changed(training, steps=4, lora=Lora(2, 4))
    trained = Finetuned(adapted, [PROMPT], tmp_path / "own", samples=4)
    folders = [trained.maximize(np.array([3.0]), [reward]).folder for reward in REWARDS.values()]
    members = [load_policy(folder) for folder in folders if folder is not None]
    start = load_language_model(training.model.name)
    soup = interpolate(start, members, (0.25, 0.5))
    moved = 0.0
    for key, value in soup.model.state_dict().items():
        base, one, two = (m.model.state_dict()[key].double() for m in (start, *members))
        assert torch.allclose(value.double(), base + 0.25 * (one - base) + 0.5 * (two - base), atol=1e-7)
        moved += float((value.double() - base).abs().sum())
    assert moved > 0
    save_language_model(soup, tmp_path / "soup")
    again = load_language_model(str(tmp_path / "soup")).model.state_dict()
    assert all(torch.equal(again[key], value) for key, value in soup.model.state_dict().items())
    assert torch.equal(interpolate(start, members, (1.0, 0.0)).model.lm_head.weight, members[0].model.lm_head.weight)
