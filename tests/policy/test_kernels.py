"""The choice of attention, by platform, policy and sizes; no device is needed."""

from types import SimpleNamespace

import numpy as np
import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.policy import kernels
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.kernels import (
    Choice,
    SamplerSizes,
    describe,
    page_length,
    row_attention,
    sampler_attention,
)
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.sampling.config import EngineConfig

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "head_dim": 128,
}
SIZES = SamplerSizes(slots=64, length=9216, dtype="bfloat16")


def mesh(platform, data=1, fsdp=1, tensor=1):
    shape = {"data": data, "fsdp": fsdp, "tensor": tensor}
    device = SimpleNamespace(platform=platform, device_kind=f"some {platform}")
    devices = np.array([device] * (data * fsdp * tensor)).reshape(*shape.values())
    return SimpleNamespace(devices=devices, size=devices.size, shape=shape)


def sampler(platform, asked="auto", sizes=SIZES, at=None, **shape):
    config = PolicyConfig(**(SHAPE | shape))
    return sampler_attention(asked, config, sizes, at or mesh(platform))


@pytest.mark.parametrize(
    ("platform", "name", "why"),
    [
        ("tpu", "splash", "the kernel for TPUs"),
        ("gpu", "blocks", "cuDNN knows no conversations within a row"),
        ("cpu", "blocks", "no kernel for cpu"),
    ],
)
def test_rows(platform, name, why):
    assert row_attention("auto", mesh(platform, 2, 2, 2)) == Choice(name, why)
    assert row_attention("blocks", mesh(platform)).name == "blocks"


def test_rows_on_the_default_device_are_those_of_a_cpu():
    assert row_attention("auto", None).name == "blocks"


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_splash_is_refused_by_name(platform):
    with pytest.raises(
        InputError,
        match=f'LearnerConfig.attention "splash" cannot be had: it is for TPUs, and '
        f"the mesh has devices of {platform}; set it to",
    ):
        row_attention("splash", mesh(platform))


def test_the_sampler():
    chosen = sampler("tpu")
    assert (chosen.prefill.name, chosen.decode.name) == ("splash", "paged")
    chosen = sampler("gpu")
    assert (chosen.prefill.name, chosen.decode.name) == ("cudnn", "cudnn")
    chosen = sampler("cpu")
    assert chosen.prefill == chosen.decode == Choice("blocks", "no kernel for cpu")
    for platform in ("cpu", "gpu", "tpu"):
        chosen = sampler(platform, "blocks")
        assert (chosen.prefill.name, chosen.decode.name) == ("blocks", "blocks")


WINDOW = {"family": "mistral", "sliding_window": 4096}


@pytest.mark.parametrize(
    ("sizes", "shape", "why"),
    [
        ({}, WINDOW, "has no window"),
        ({}, {"head_dim": 64}, "needs heads of 128, here 64"),
        ({"dtype": "float32"}, {}, "reads bfloat16, here float32"),
        ({"trunks": True}, {}, "no log-sum-exp to merge a trunk with"),
        ({"length": 100}, {}, "slots of 100 tokens have no pages of 16"),
        ({"slots": 2**12}, {}, "a table of 294912 pages"),
    ],
)
def test_what_paged_attention_cannot_do(sizes, shape, why):
    sizes = SIZES._replace(**sizes)
    chosen = sampler("tpu", sizes=sizes, **shape)
    assert chosen.decode.name == "blocks"
    assert why in chosen.decode.why
    assert chosen.prefill.name == ("blocks" if sizes.trunks else "splash")
    with pytest.raises(InputError, match=f'"paged" cannot be had: .*{why}'):
        sampler("tpu", "paged", sizes, **shape)


def test_paged_attention_sees_what_a_device_has():
    """2048 slots: 147456 pages on one device, 9216 on each of 16."""
    sizes = SIZES._replace(slots=2048)
    assert sampler("tpu", sizes=sizes).decode.name == "blocks"
    at = mesh("tpu", 2, 2, 4)
    assert sampler("tpu", sizes=sizes, at=at).decode.name == "paged"
    # Heads that do not divide are on every device: 36864 pages on each of 4.
    at = mesh("tpu", 2, 2, 8)
    assert sampler("tpu", sizes=sizes, at=at).decode.name == "paged"
    at = mesh("tpu", 1, 1, 8)
    assert sampler("tpu", sizes=sizes, at=at).decode.name == "blocks"


def test_a_window_that_no_slot_fills_is_none():
    sizes = SIZES._replace(length=4096)
    assert sampler("tpu", sizes=sizes, **WINDOW).decode.name == "paged"


@pytest.mark.parametrize(
    ("sizes", "shape", "why", "prefill"),
    [
        ({}, {"attn_logit_softcapping": 30.0}, "no soft-cap", "blocks"),
        ({}, WINDOW, "no window for one query", "cudnn"),
        ({}, {"head_dim": 256}, "heads of at most 128", "blocks"),
        ({"dtype": "float32"}, {}, "needs bfloat16", "blocks"),
        ({"trunks": True}, {}, "trunks are merged", "blocks"),
    ],
)
def test_what_cudnn_cannot_do(sizes, shape, why, prefill):
    chosen = sampler("gpu", sizes=SIZES._replace(**sizes), **shape)
    assert chosen.decode.name == "blocks"
    assert why in chosen.decode.why
    assert chosen.prefill.name == prefill


def test_one_line_says_what_was_taken():
    at = mesh("tpu", 2, 2, 2)
    line = describe(at, row_attention("auto", at), sampler("tpu", **WINDOW))
    assert line == (
        "attention on some tpu: rows, prefill by splash (the kernel for TPUs); "
        "decode by blocks (paged attention has no window)"
    )
    assert describe(None, row_attention("auto", None)) == (
        "attention on cpu: rows by blocks (no kernel for cpu)"
    )


def test_pages_divide_slots():
    """The kernel reads a page at once: near 512 keys, whole tiles of 16."""
    found = [page_length(n) for n in (64, 9216, 8896, 2048, 640, 1040, 100, 48)]
    assert found == [64, 512, 64, 512, 320, 208, None, 48]


def test_axes_of_a_mesh():
    assert kernels.heads_axis(mesh("cpu", 1, 1, 4), 28, 4) == "tensor"
    assert kernels.heads_axis(mesh("cpu", 1, 1, 8), 28, 4) is None
    assert kernels.rows_axes(mesh("cpu", 2, 2, 2), 8) == ("data", "fsdp")
    assert kernels.rows_axes(mesh("cpu", 2, 2, 2), 6) is None


def test_names_are_checked():
    with pytest.raises(InputError, match="attention must be one of auto, blocks, spl"):
        LearnerConfig(attention="flash")
    with pytest.raises(InputError, match="attention must be one of auto, blocks, pag"):
        EngineConfig(attention="flash")
