"""Losses of pairs against formulas in high precision, numbers worked out by hand, and published shapes."""

from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import torch

from rlhf_game import InputError
from rlhf_game.training_backends.trainers.preferences import losses
from rlhf_game.training_backends.trainers.preferences.losses import LOSSES, PairBatch, PreferenceLoss, find_loss

S = mp.mpf("0.05")
Z = [-2.5, -0.3, 0.0, 0.02, 1.7]


def sigma(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def bent(x: Any) -> Any:
    return mp.log(1 + mp.exp(-x))


def hinge(x: Any) -> Any:
    return max(mp.mpf(0), 1 - x)


def spread(zs: list[Any]) -> Any:
    scaled = [z / S for z in zs]
    middle = mp.fsum(scaled) / len(scaled)
    return mp.fsum((x - middle) ** 2 for x in scaled) / (len(scaled) - 1)


def _aql(z: Any, zs: list[Any], steepness: Any = 1) -> Any:
    m = mp.mpf("0.5") + mp.mpf("0.01") * (sigma(mp.fsum(x / S for x in zs) / len(zs)) - mp.mpf("0.5"))
    g = sigma(steepness * (S * m - z))
    return g * bent(z) + (1 - g) * hinge(z)


def _aqfl(z: Any, zs: list[Any]) -> Any:
    start = mp.sqrt(spread(zs)) * mp.fsum(sigma(-x / S) for x in zs) / len(zs)
    a = start + mp.mpf("0.05") * (sigma(mp.fsum(x / S for x in zs) / len(zs)) - start)
    g = sigma(mp.mpf("0.1") * abs(z / S - a))
    return g * bent(z) + (1 - g) * hinge(z)


def _dbaql(z: Any, zs: list[Any]) -> Any:
    g = sigma(spread(zs))
    return g * bent(z / mp.mpf("0.9")) + (1 - g) * mp.exp(-mp.mpf("0.9") * z)


def _lrml(z: Any, zs: list[Any]) -> Any:
    g = sigma(z / S)
    return (1 - g) * bent(z) + g * mp.exp(-z)


EXACT: dict[str, Callable[[Any, list[Any]], Any]] = {
    "dpo": lambda z, zs: bent(z),
    "slic": lambda z, zs: hinge(z),
    "lrml": _lrml,
    "dbaql": _dbaql,
    "aql": _aql,
    "aql_code": lambda z, zs: _aql(z, zs, 1 / S),
    "padll": lambda z, zs: mp.mpf("0.9") * (mp.mpf("0.5") if z < 0 else 1) * bent(z),
    "aqfl": _aqfl,
    "cell": lambda z, zs: mp.exp(-z) / 2 + bent(z) / 2,
}
"""The formulas as the literature writes them, of one margin and of its batch."""


def batch(z: Any, *, beta: float = 0.1, lead: Any = None, **columns: Any) -> PairBatch:
    z = torch.as_tensor(z, dtype=torch.float64)
    half = z / (2 * beta)
    return PairBatch(
        chosen=half,
        rejected=-half,
        beta=beta,
        lead=z if lead is None else torch.as_tensor(lead),
        chosen_tokens=torch.full(z.shape, 4),
        rejected_tokens=torch.full(z.shape, 2),
        columns={name: torch.as_tensor(values, dtype=torch.float64) for name, values in columns.items()},
    )


def slope(name: str, z: list[float], **columns: Any) -> np.ndarray:
    """The gradient of the sum of the losses with respect to the margins, [b]."""
    tensor = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    LOSSES[name].of(batch(tensor, **columns)).sum().backward()
    assert tensor.grad is not None
    return tensor.grad.numpy()


@pytest.mark.parametrize("name", EXACT)
def test_values_and_gradients_are_those_of_the_formula_in_high_precision(name: str) -> None:
    zs = [mp.mpf(z) for z in Z]
    found = LOSSES[name].of(batch(Z)).numpy()
    np.testing.assert_allclose(found, [float(EXACT[name](z, zs)) for z in zs], rtol=1e-12)
    smooth = [k for k, z in enumerate(Z) if not (name == "padll" and z == 0)]  # padll jumps there
    with mp.workdps(40):
        for k in smooth:
            step = mp.mpf("1e-15")
            ends = []
            for move in (step, -step):
                moved = [z + move if i == k else z for i, z in enumerate(zs)]
                ends.append(mp.fsum(EXACT[name](z, moved) for z in moved))
            assert slope(name, Z)[k] == pytest.approx(float((ends[0] - ends[1]) / (2 * step)), rel=1e-9), (name, k)


def test_numbers_worked_out_by_hand() -> None:
    log2 = np.log(2)
    at_zero = {
        "dpo": log2, "slic": 1.0, "lrml": (log2 + 1) / 2, "padll": 0.9 * log2, "cell": (1 + log2) / 2,
        "ipo_summed": 25.0, "ipo": 25.0, "kto_pair": 0.5,
    }  # fmt: skip
    for name, value in at_zero.items():
        np.testing.assert_allclose(LOSSES[name].of(batch([0.0, 0.0])), value, rtol=1e-12)
    # ratios 2 and -2 (z = 0.4, beta = 0.1): 4 - 5; per token 2/4 + 2/2 = 1.5, less 5
    np.testing.assert_allclose(LOSSES["ipo_summed"].of(batch([0.4])), [1.0], rtol=1e-12)
    np.testing.assert_allclose(LOSSES["ipo"].of(batch([0.4])), [3.5**2], rtol=1e-12)
    np.testing.assert_allclose(LOSSES["slic"].of(batch([-1.0, 3.0])), [2.0, 0.0])
    # with the policy's own lead half of DPO, without it twice the hinge, whatever the sign of z
    np.testing.assert_allclose(LOSSES["pfl"].of(batch([0.0, 0.0], lead=[1.0, -1.0])), [log2 / 2, 2.0])
    # chosen log-ratios 1 and 3 (mean 2), rejected -1 and -3 (mean clamped to 0), beta = 1
    both = PairBatch(
        torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -3.0]), 1.0, torch.zeros(2), torch.ones(2), torch.ones(2)
    )
    s = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    expected = [(s(-1) + s(-3)) / 2, (s(-3) + s(-5)) / 2]
    np.testing.assert_allclose(LOSSES["kto_pair"].of(both), expected, rtol=1e-6)


def test_the_shape_of_lrml_is_the_published_one() -> None:
    """Lu et al. 2024, section 6: not convex, with a minimum left and a maximum right of the reference."""

    def derivative(z: float) -> float:
        return float(slope("lrml", [z])[0])

    assert float(losses.lrml(torch.tensor([0.0], dtype=torch.float64))) == pytest.approx(0.846573590, abs=1e-9)
    for place, turns_up in ((-0.118569893, True), (0.072006114, False)):
        assert derivative(place) == pytest.approx(0.0, abs=1e-6)
        assert (derivative(place - 1e-4) < 0 < derivative(place + 1e-4)) == turns_up
        assert derivative(place - 1e-4) * derivative(place + 1e-4) < 0


def test_slopes_at_the_reference() -> None:
    """Two losses begin by pushing the chosen response down."""
    known = {
        "lrml": 0.784, "dbaql": -0.728, "aql": -0.670, "aql_code": 0.750, "aqfl": -0.598, "cell": -0.750, "dpo": -0.5,
        "slic": -1.0,
    }  # fmt: skip
    for name, value in known.items():
        size = 1 if LOSSES[name].smallest_batch == 1 else 2
        assert slope(name, [0.0] * size)[0] == pytest.approx(value, abs=6e-4), name
    assert {name for name, value in known.items() if value > 0} == {"lrml", "aql_code"}
    assert float(slope("lrml", [0.0])[0]) == pytest.approx(-0.75 + (1 - np.log(2)) / (4 * 0.05))
    assert slope("padll", [1e-12])[0] == pytest.approx(-0.45)


def test_at_the_beta_of_their_discovery_losses_are_the_code_that_was_found() -> None:
    """Lu et al. 2024, App. E: as generated, the code weighs by beta only what it takes the logistic function of."""
    beta, logits = float(S), torch.tensor([-60.0, -1.0, 0.0, 0.4, 9.0], dtype=torch.float64)
    log_sigmoid, hinge_of = torch.nn.functional.logsigmoid, lambda x: torch.relu(1 - x)
    quantile = 0.5 + 0.01 * (torch.sigmoid(logits.mean()) - 0.5)
    weight = torch.sigmoid(-beta * (logits - quantile))
    torch.testing.assert_close(
        losses.aql(beta * logits), -weight * log_sigmoid(beta * logits) + (1 - weight) * hinge_of(beta * logits)
    )
    blend = torch.sigmoid(logits.var())
    torch.testing.assert_close(
        losses.dbaql(beta * logits),
        -blend * log_sigmoid(beta * logits / 0.9) + (1 - blend) * torch.exp(-beta * logits * 0.9),
    )
    modulation = torch.sigmoid(logits)
    torch.testing.assert_close(
        losses.lrml(beta * logits),
        -(1 - modulation) * log_sigmoid(beta * logits) + modulation * torch.exp(-beta * logits),
    )
    assert not torch.isclose(losses.aql(beta * logits), losses.aql_code(beta * logits)).all()


def test_spce_is_dpo_of_certain_labels_and_smallest_where_the_strength_is() -> None:
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(losses.spce(z, torch.ones(7)), losses.dpo(z))
    torch.testing.assert_close(losses.spce(z, torch.zeros(7)), losses.dpo(-z))
    strengths = [0.2, 0.5, 0.9]
    np.testing.assert_allclose(
        slope("spce", [float(np.log(p / (1 - p))) for p in strengths], strength=strengths), 0.0, atol=1e-12
    )
    assert losses.spce(torch.tensor([0.0]), torch.tensor([0.3])) == pytest.approx(np.log(2))


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_are_kept_and_extreme_margins_are_finite(name: str) -> None:
    for dtype, far in ((torch.float32, 80.0), (torch.float64, 600.0)):
        for z in ([far, far, far], [-far, -far, -far], [far, -far, 0.0], [0.0, 0.0, 0.0]):
            tensor = torch.tensor(z, dtype=dtype, requires_grad=True)
            found = LOSSES[name].of(
                PairBatch(
                    tensor, torch.zeros(3, dtype=dtype), 1.0, tensor.detach(), torch.ones(3), torch.ones(3),
                    {"strength": torch.full((3,), 0.7, dtype=dtype)},
                )
            )  # fmt: skip
            assert found.shape == (3,)
            found.mean().backward()
            assert torch.isfinite(found).all()
            assert tensor.grad is not None
            assert torch.isfinite(tensor.grad).all(), (name, z, tensor.grad)


def test_only_two_losses_overflow_and_only_where_they_say() -> None:
    very = torch.full((3,), -1e4)
    overflowing = {
        name for name, loss in LOSSES.items()
        if not torch.isfinite(loss.of(batch(very.double(), beta=1.0, strength=[0.7] * 3))).all()
    }  # fmt: skip
    assert overflowing == {"cell", "dbaql"}
    assert torch.isinf(losses.cell(torch.tensor([-88.8])))
    assert torch.isfinite(losses.cell(torch.tensor([-88.7])))
    assert torch.isinf(losses.dbaql(torch.full((2,), -99.5))).all()
    assert torch.isfinite(losses.dbaql(torch.full((2,), -99.3))).all()


def test_arrays_give_arrays_and_a_single_pair_has_no_spread() -> None:
    found = losses.lrml(np.array(Z), tau=0.1)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, losses.lrml(torch.tensor(Z, dtype=torch.float64), tau=0.1))
    np.testing.assert_array_equal(losses.spce(np.zeros(2), strength=np.array([0.5, 1.0])), [np.log(2)] * 2)
    assert {name for name, loss in LOSSES.items() if loss.smallest_batch == 2} == {"dbaql", "aqfl"}
    assert {name for name, loss in LOSSES.items() if loss.sees_batch} == {
        "dbaql", "aql", "aql_code", "aqfl", "kto_pair",
    }  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_says_of_its_batch_is_true(name: str) -> None:
    """A pair's loss changes with the other pairs exactly where sees_batch says so."""
    together = LOSSES[name].of(batch([0.1, 0.5, 0.2], strength=[0.7] * 3))
    others = LOSSES[name].of(batch([0.1, 1.5, 0.9], strength=[0.7] * 3))
    assert (together[0] != others[0]) == LOSSES[name].sees_batch


def test_a_loss_is_found_by_name_or_given() -> None:
    own = PreferenceLoss("own", lambda b: b.margin**2, "z^2")
    assert find_loss(own) is own
    with pytest.raises(InputError, match="loss must be one of dpo, ipo, .*, got sigmoid"):
        find_loss("sigmoid")
