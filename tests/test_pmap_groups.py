"""Groups over devices: the same numbers as without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import ROLLOUTS, pmap_groups


def centre(x, axis_name=None):
    total, count = x.sum(axis=1, keepdims=True), x.shape[1]
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return {"centred": x - total / count, "twice": 2 * x}


@pytest.mark.parametrize("questions", [1, 7, 8, 9])
def test_questions_are_padded_and_cut_again(questions):
    x = np.arange(questions * 3, dtype=np.float32).reshape(questions, 3)
    got = pmap_groups(centre)(x)
    np.testing.assert_allclose(got["centred"], np.tile([[-1, 0, 1]], (questions, 1)))
    np.testing.assert_array_equal(got["twice"], 2 * x)
    assert isinstance(got["twice"], np.ndarray)


@pytest.mark.parametrize("rollouts", [1, 3, 8, 12, 16])
def test_rollouts_of_a_group_on_different_devices(rollouts):
    """12 rollouts lie on 6 of the 8 devices, 2 on each."""
    x = np.random.default_rng(0).normal(size=(2, rollouts, 4)).astype(np.float32)
    got = pmap_groups(centre, split="rollouts")(x)
    np.testing.assert_allclose(
        got["centred"], x - x.mean(axis=1, keepdims=True), atol=1e-6
    )
    np.testing.assert_array_equal(got["twice"], 2 * x)


def test_devices_take_part():
    """Each device says which it is: rollouts 0..15 lie two by two on devices 0..7."""

    def where(x, axis_name):
        return jnp.full(x.shape, jax.lax.axis_index(axis_name))

    got = pmap_groups(where, split="rollouts")(np.zeros((1, 16)))
    assert got.tolist() == [[i // 2 for i in range(16)]]
    few = pmap_groups(where, split="rollouts", devices=jax.local_devices()[:2])
    assert few(np.zeros((1, 4))).tolist() == [[0, 0, 1, 1]]
    assert ROLLOUTS == "rollouts"


def test_outputs_per_question_and_empty_turns():
    x = np.ones((3, 2, 0), np.float32)
    got = pmap_groups(lambda x: (x, x.sum(axis=(1, 2))))(x)
    assert got[0].shape == (3, 2, 0)
    assert got[1].tolist() == [0, 0, 0]


def test_a_shape_is_traced_once():
    traces = []

    def fn(x):
        traces.append(x.shape)
        return x

    mapped = pmap_groups(fn)
    mapped(np.zeros((8, 2)))
    mapped(np.ones((5, 2)))  # padded to 8
    assert traces == [(1, 2)]


def test_wrong_use_is_refused():
    with pytest.raises(InputError, match="split must be"):
        pmap_groups(centre, split="turns")
    mapped = pmap_groups(lambda x, y: x)
    with pytest.raises(InputError, match=r"same \[P, G\]"):
        mapped(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(InputError, match="neither of them 0"):
        mapped(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(InputError, match=r"same \[P, G\]"):
        mapped(np.zeros(2), np.zeros(2))
