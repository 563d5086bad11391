"""Every family against Hugging Face torch, live, on random weights and odd shapes."""

import copy
import functools
import tempfile

import hf_cases
import jax.numpy as jnp
import numpy as np
import pytest
from decoding import greedy, whole_rows

from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.policy.hf_export import export_policy

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

LIMIT = 1e-4  # largest difference of logits, float32
CASES = list(hf_cases.CASES)


@functools.cache
def reference(case):
    """A random model whose norms and biases are not what they start as."""
    transformers = pytest.importorskip("transformers")
    fields = dict(hf_cases.CASES[case])
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@functools.cache
def ours_of(case):
    """That model in our form, through a directory that transformers wrote."""
    with tempfile.TemporaryDirectory() as directory:
        reference(case).save_pretrained(directory)
        return load_policy(directory)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def loaded(case):
    return ours_of(case)


def tokens(rows, length, seed=0):
    return np.random.default_rng(seed).integers(3, hf_cases.VOCAB, (rows, length))


def their_logits(case, token_ids, **inputs):
    inputs = {name: torch.as_tensor(value) for name, value in inputs.items()}
    with torch.no_grad():
        return reference(case)(torch.from_numpy(token_ids), **inputs).logits.numpy()


def test_logits(case, loaded):
    """Two rows of 100 tokens, far over the windows and original contexts."""
    rows = tokens(2, hf_cases.LENGTH)
    theirs = their_logits(case, rows)
    ours = whole_rows(*loaded, rows)
    assert np.abs(theirs).max() > 0.5
    assert np.abs(ours - theirs).max() <= LIMIT


def test_padded_batches(case, loaded):
    """Rows of 100 and 61 tokens; theirs padded on the left, ours on the right."""
    lengths = [100, 61]
    rows = tokens(2, 100, seed=1)
    left, mask = np.zeros((2, 100), np.int64), np.zeros((2, 100), np.int64)
    right = np.zeros((2, 100), np.int32)
    positions = np.full((2, 100), -1, np.int32)
    for row, length in enumerate(lengths):
        left[row, 100 - length :] = rows[row, :length]
        mask[row, 100 - length :] = 1
        right[row, :length] = rows[row, :length]
        positions[row, :length] = np.arange(length)
    theirs = their_logits(
        case,
        left,
        attention_mask=mask,
        position_ids=np.maximum(mask.cumsum(axis=1) - 1, 0),
    )
    ours = whole_rows(*loaded, right, positions)
    for row, length in enumerate(lengths):
        difference = ours[row, :length] - theirs[row, 100 - length :]
        assert np.abs(difference).max() <= LIMIT


def test_greedy_tokens(case, loaded):
    """64 tokens after each of two prompts, through both caches; a near tie in which
    the two logits are closer than LIMIT could go either way, and does not occur."""
    policy, params = loaded
    prompts = tokens(2, 20, seed=2)
    with torch.no_grad():
        theirs = reference(case).generate(
            torch.from_numpy(prompts),
            attention_mask=torch.ones((2, 20), dtype=torch.long),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    ours, _ = greedy(policy, policy.sampling_params(params), prompts, 64)
    np.testing.assert_array_equal(ours, theirs.numpy()[:, 20:])


def test_cached_decode_equals_the_full_pass(loaded):
    policy, params = loaded
    prompts = tokens(1, 20, seed=3)
    made, cached = greedy(policy, policy.sampling_params(params), prompts, 64)
    full = whole_rows(policy, params, np.concatenate([prompts, made], axis=1))
    assert np.abs(cached - full[:, 19:-1]).max() <= LIMIT


def test_exports_are_loaded_by_transformers(case, loaded, tmp_path):
    transformers = pytest.importorskip("transformers")
    policy, params = loaded
    export_policy(policy, params, tmp_path / "policy", shard_bytes=30_000)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert type(model) is type(reference(case))
    rows = tokens(1, 40, seed=4)
    with torch.no_grad():
        again = model(torch.from_numpy(rows)).logits.numpy()
    np.testing.assert_array_equal(again, their_logits(case, rows))


def test_positions_far_beyond_the_window(case, loaded):
    """Rows that start at position 30,000."""
    rows = tokens(1, 40, seed=5)
    positions = 30_000 + np.arange(40)[None]
    theirs = their_logits(case, rows, position_ids=positions)
    ours = whole_rows(*loaded, rows, positions)
    # One unit in the last place of an angle of 30,000 is 0.002 of a radian.
    assert np.abs(ours - theirs).max() <= 2e-3


def test_bfloat16_files_give_the_logits_of_their_rounded_weights(tmp_path):
    case = "qwen3_wide_heads"
    transformers = pytest.importorskip("transformers")
    rounded = copy.deepcopy(reference(case)).to(torch.bfloat16)
    rounded.save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32
    )
    rows = tokens(1, 40, seed=6)
    with torch.no_grad():
        theirs = model(torch.from_numpy(rows)).logits.numpy()
    ours = whole_rows(*load_policy(tmp_path, jnp.float32), rows)
    assert np.abs(ours - theirs).max() <= LIMIT


def test_soft_capped_attention(tmp_path):
    """transformers 5 reads `attn_logit_softcapping` of Gemma 3 and forgets it; its
    eager attention takes it as an argument."""
    transformers = pytest.importorskip("transformers")
    fields = dict(hf_cases.CASES["gemma3"], attn_logit_softcapping=0.5)
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    rows = tokens(1, 40, seed=7)
    with torch.no_grad():
        capped = model(torch.from_numpy(rows), softcap=0.5).logits.numpy()
        plain = model(torch.from_numpy(rows)).logits.numpy()
    assert np.abs(capped - plain).max() > 100 * LIMIT
    model.save_pretrained(tmp_path)
    ours = whole_rows(*load_policy(tmp_path), rows)
    assert np.abs(ours - capped).max() <= LIMIT
