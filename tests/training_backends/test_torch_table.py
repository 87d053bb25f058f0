"""Torch tables give the numbers of numpy tables: in every hard regime, on the CPU and, where there is one, on a GPU."""

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism import arrays
from rlhf_game.mechanism.rules.welfare_rules import NashWelfare
from tests.mechanism.regimes import REGIMES, Regime
from tests.mechanism.test_exactness import UNDERFLOW, error
from tests.strategies import TableGame

torch = pytest.importorskip("torch", reason="needs torch, of the extra 'train'")
from rlhf_game.training_backends import torch_table  # noqa: E402

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
MECHANISM = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())


def settle(game: TableGame, device: str) -> rg.Settlement:
    space = torch_table.TorchTable(game.references[0], rg.KL(game.strength), device=device)
    return MECHANISM.settle(game.reports(), space)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("entries", [None, 6], ids=["whole", "cut"])
@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_torch_tables_are_as_exact_as_numpy_tables(
    regime: Regime, entries: int | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if entries is not None:
        monkeypatch.setattr(torch_table, "BLOCK", entries)
        monkeypatch.setattr(torch_table, "GPU_BLOCK", entries)
    for seed in range(2):
        game = regime.make("kl", np.random.default_rng(seed))
        exact, settled = game.exact(), settle(game, device)
        money = float(max(abs(entry) for table in game.rewards for row in table for entry in row))
        for i, (payment, wanted) in enumerate(zip(settled.payments, exact.payments, strict=True)):
            floor = 1e-28 * money * game.sizes[i] if abs(wanted) < 1e-290 else UNDERFLOW
            assert error(payment, wanted, floor) <= 1e-9, f"seed {seed}, payment {i}: {payment!r} for {float(wanted)!r}"
        for value, wanted in zip(settled.values, exact.values, strict=True):
            assert error(value, wanted) <= 1e-9
        assert error(settled.policy.divergence, exact.divergence, 1e-28) <= 1e-9
        for p, wanted in zip(settled.policy.probabilities, exact.policy[0], strict=True):
            assert abs(p - float(wanted)) <= max(1e-9 * float(wanted), 1e-15)


@pytest.mark.parametrize("device", DEVICES)
def test_a_long_table_agrees_with_numpy(device: str) -> None:
    rng = np.random.default_rng(0)
    outcomes = 3 * arrays.BLOCK
    reference, rewards = rng.dirichlet(np.ones(outcomes)), rng.uniform(0, 1, (3, outcomes))
    reports = [rg.Report(reward, size=size) for reward, size in zip(rewards, (1, 2, 5), strict=True)]
    one = MECHANISM.settle(reports, rg.Table(reference, rg.KL(0.3)))
    other = MECHANISM.settle(reports, torch_table.TorchTable(reference, rg.KL(0.3), device=device))
    np.testing.assert_allclose(other.payments, one.payments, rtol=1e-12)
    np.testing.assert_allclose(other.values, one.values, rtol=1e-12)
    np.testing.assert_allclose(other.policy.probabilities, one.policy.probabilities, rtol=1e-10)


def test_tensors_are_rewards_and_are_checked() -> None:
    space = torch_table.TorchTable([0.5, 0.3, 0.2], rg.KL(0.1), normalization="max")
    rewards = [[1.0, 0.0, 0.0], [0.0, 0.2, 1.0]]
    settled = [MECHANISM.settle([rg.Report(make(row)) for row in rewards], space) for make in (list, torch.tensor)]
    np.testing.assert_allclose(settled[0].payments, settled[1].payments, rtol=1e-6)  # torch.tensor makes float32
    for wrong, message in (
        ([1.0, 0.0], r"shape \(3,\), got \(2,\)"),
        ([1.0, 0.0, float("nan")], "finite"),
        ([0.5, 0.0, 0.0], "max 1"),
    ):
        with pytest.raises(rg.InputError, match=message):
            space.read(torch.tensor(wrong))


def test_only_kl() -> None:
    with pytest.raises(rg.InputError, match="KL"):
        torch_table.TorchTable([0.5, 0.5], rg.SquaredL2(1.0))


def test_payments_over_a_domain_are_those_of_numpy() -> None:
    reference, rng = [0.5, 0.3, 0.2], np.random.default_rng(3)
    reports = [rg.Report(rng.dirichlet(np.ones(3)), size) for size in (2, 1)]
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.RevenueOptimal())
    spaces = (kind(reference, rg.KL(0.4), normalization="sum") for kind in (torch_table.TorchTable, rg.Table))
    mine, theirs = (mechanism.settle(reports, space).payments for space in spaces)
    np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    groups = [rg.Group(f"g{i}", report.reward, report.size) for i, report in enumerate(reports)]
    space = torch_table.TorchTable(reference, rg.KL(0.4), normalization="sum")
    assert all(regret.is_proved for regret in rg.audit(mechanism, groups, space, [rg.Polarize(4.0), rg.Resize(2.0)]))


def test_rules_that_need_numpy_say_what_is_missing() -> None:
    space = torch_table.TorchTable([0.5, 0.5], rg.KL(1.0))
    with pytest.raises(rg.CombinationError, match="NashWelfare needs a Table, not TorchTable"):
        rg.Mechanism(NashWelfare(), rg.NoPayments()).settle([rg.Report([1, 0])], space)
