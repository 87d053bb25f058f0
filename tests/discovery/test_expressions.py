"""The language of losses: what is read and what is refused, and values that are those of numpy and of known losses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_game import InputError
from rlhf_game.discovery.evolution import cross, grow, mutate
from rlhf_game.discovery.expression_loss import loss_of
from rlhf_game.discovery.expressions import ARITY, Apply, Limits, Name, Number, depth, parse, size, uses, write
from rlhf_game.training_backends.trainers.preferences import LOSSES, OPERATIONS, PairBatch, check_trainable

Z = torch.tensor([-2.0, -0.3, 0.04, 1.5], dtype=torch.float64)


def batch(z: torch.Tensor = Z, beta: float = 0.5) -> PairBatch:
    return PairBatch(0.7 * z / beta, -0.3 * z / beta, beta, z, torch.ones_like(z), torch.ones_like(z))


def values(text: str, z: torch.Tensor = Z) -> np.ndarray:
    return loss_of(parse(text)).of(batch(z)).numpy()


def test_operations_are_those_that_can_be_written() -> None:
    assert OPERATIONS.keys() == ARITY.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("z", "z"),
        ("1 - 2 - z", "1 - 2 - z"),
        ("1 - (2 - z)", "1 - (2 - z)"),
        ("-z * 2", "-z * 2"),
        ("-(z * 2)", "-(z * 2)"),
        ("z / tau / beta", "z / tau / beta"),
        ("+z - -1.50", "z - -1.5"),
        ("2 * (z < 0) + 1", "2 * (z < 0) + 1"),
        ("where(z >= 0.1, relu(1 - z), square(z))", "where(z >= 0.1, relu(1 - z), square(z))"),
        ("(z < 0) < (z > 1)", "(z < 0) < (z > 1)"),
    ],
)
def test_what_is_read_is_written_and_read_again(text: str, expected: str) -> None:
    assert write(parse(text)) == expected
    assert parse(expected) == parse(text)


def test_values_are_those_of_numpy() -> None:
    z = Z.numpy()
    expected = {
        "(z < 0) * 3 - z / 2": (z < 0) * 3 - z / 2,
        "where(z > 0, z, abs(z) * 2)": np.where(z > 0, z, 2 * np.abs(z)),
        "tanh(z) + exp(-z) + square(z)": np.tanh(z) + np.exp(-z) + z**2,
        "z - mean(z) + std(z) * var(z)": z - z.mean() + z.std(ddof=1) * z.var(ddof=1),
        "beta * (chosen - rejected)": z,
        "chosen + 0 * rejected": 0.7 * z / 0.5,
        "mean(z)": np.full(4, z.mean()),
        "-log_sigmoid(z / tau)": np.log1p(np.exp(-z / 0.05)),
    }
    for text, found in expected.items():
        np.testing.assert_allclose(values(text), found, rtol=1e-12, err_msg=text)
    edges = "(z <= 0) + 2 * (z >= 0) + 4 * (z > 0) + 8 * (z < 0) + 16 * where(z, 1, 0)"
    edge = values(edges, torch.tensor([-1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(edge, [1 + 8, 1 + 2, 2 + 4 + 16])
    assert float(values("std(z) + var(z) + z", torch.tensor([2.0], dtype=torch.float64))[0]) == 2.0  # of one pair: 0


def test_known_losses_can_be_spelled() -> None:
    g = "sigmoid(z / tau)"
    spelled = {
        "dpo": "-log_sigmoid(z)",
        "slic": "relu(1 - z)",
        "ipo_summed": "square(chosen - rejected - 0.5 / beta)",
        "lrml": f"(1 - {g}) * -log_sigmoid(z) + {g} * exp(-z)",
        "padll": "0.9 * (1 - 0.5 * (z < 0)) * -log_sigmoid(z)",
        "cell": "0.5 * exp(-z) - 0.5 * log_sigmoid(z)",
        "dbaql": "sigmoid(var(z / 0.05)) * -log_sigmoid(z / 0.9) + (1 - sigmoid(var(z / 0.05))) * exp(-0.9 * z)",
    }
    for name, text in spelled.items():
        np.testing.assert_allclose(values(text), LOSSES[name].of(batch()).numpy(), rtol=1e-9, err_msg=name)
        check_trainable(loss_of(parse(text)), 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__import__('os').system('true')", "is not in the language"),
        ("z.__class__", "is not in the language"),
        ("(lambda: z)()", "is not in the language"),
        ("[z for z in (1, 2)]", "is not in the language"),
        ("z ** 9", "is not in the language"),
        ("z if z else 1", "is not in the language"),
        ("'z'", "is not in the language"),
        ("True", "is not in the language"),
        ("1e9", "is not in the language"),
        ("1e999", "is not in the language"),
        ("2j", "is not in the language"),
        ("y", "is not in the language"),
        ("exp(*z)", "is not in the language"),
        ("exp(x=z)", "is not in the language"),
        ("0 < z < 1", "is not in the language"),
        ("z == 1", "is not in the language"),
        ("open(z)", "is not in the language"),
        ("exp(z, z)", "exp must have 1 arguments, found 2"),
        ("where(z, 1)", "where must have 3 arguments, found 2"),
        ("z; z", "must be one expression"),
        ("x = z", "must be one expression"),
        ("", "must be one expression"),
        ("z\x00", "must be one expression"),
        ("(" * 400 + "z" + ")" * 400, "must be one expression"),
        ("-" * 900 + "z", "must have a size|must be one expression"),
        ("exp(" * 30 + "z" + ")" * 30, "depth of at most 10, found 31"),
        ("z + " * 30 + "z", "must have a size of at most 40, found 61"),
        ("z+" * 450 + "z", "must have a size of at most 40, found a larger one"),
        ("z" * 1001, "must have at most 1000 letters"),
    ],
)
def test_whatever_is_not_a_small_expression_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("z / (z - z)", "must be a number at the reference, found nan at z = 0.0"),
        ("1 / z", "must be a number at the reference, found inf"),
        ("exp(exp(-z))", "must be a number at large margins, found inf at z = -15.0"),
        ("1 + tau", "must depend on z, chosen or rejected, found a constant"),
        ("square(z)", "must have a gradient at the reference, where training starts, found zero"),
        ("z < 0", "must depend on z"),
        ("z", "must raise the chosen response somewhere"),
        ("rejected", "must raise the chosen response somewhere"),
        ("std(exp(50 * z)) - z", "must be a number at (moderate|large) margins|must have a gradient"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_trainable(loss_of(parse(text)), 0.5)


def test_losses_that_differ_by_a_factor_or_a_constant_have_the_same_slopes() -> None:
    first, second, other = (
        check_trainable(loss_of(parse(text)), 0.5) for text in ("-log_sigmoid(z)", "3 - 2 * log_sigmoid(z)", "exp(-z)")
    )
    np.testing.assert_allclose(first, second, atol=1e-12)
    assert np.abs(np.subtract(first, other)).max() > 0.1
    assert max(map(abs, first)) == 1.0


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_expressions_survive_writing_mutation_and_crossover(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wide = Limits(size=10_000, depth=1000, letters=100_000)
    first = grow(rng, 4)
    for _ in range(3):
        first = cross(mutate(first, rng), grow(rng, 2), rng)
    text = write(first)
    again = parse(text, wide)
    assert write(again) == text
    assert size(again) <= size(first)  # a negated number is a number
    assert depth(again) <= depth(first)
    assert uses(again) <= uses(first)


def test_measures_by_hand() -> None:
    tree = Apply("add", (Name("z"), Apply("exp", (Number(2.0),))))
    assert (size(tree), depth(tree), uses(tree)) == (4, 3, {"add", "z", "exp"})
