"""Logits and greedy tokens of Hugging Face torch, kept as files: no torch needed."""

import golden_weights
import hf_cases
import numpy as np
import pytest
from decoding import greedy, whole_rows

from gru_mem_jax.policy.hf import load_policy


@pytest.mark.parametrize("case", hf_cases.CASES)
def test_a_checkpoint_gives_the_stored_logits_and_tokens(case, tmp_path):
    golden = golden_weights.write_checkpoint(case, tmp_path)
    policy, params = load_policy(tmp_path)
    logits = whole_rows(policy, params, golden["tokens"])
    difference = np.abs(logits[:, golden["kept"]] - golden["logits"]).max()
    assert difference <= 1e-4
    assert np.abs(golden["logits"]).max() > 1.0  # so that 1e-4 means something
    sampling = policy.sampling_params(params)
    prompt = golden["tokens"][:1, :20]
    tokens, _ = greedy(policy, sampling, prompt, golden["greedy"].shape[1])
    assert tokens.shape == (1, 64)
    assert len(set(tokens[0].tolist())) > 2
    np.testing.assert_array_equal(tokens, golden["greedy"])


def test_the_goldens_are_those_of_the_cases():
    files = {path.name for path in golden_weights.GOLDENS.iterdir()}
    assert files == {f"{c}.{end}" for c in hf_cases.CASES for end in ("json", "npz")}
    sizes = [path.stat().st_size for path in golden_weights.GOLDENS.iterdir()]
    assert sum(sizes) < 1_000_000


def test_weights_by_name_do_not_depend_on_numpy_versions():
    row = golden_weights.weight("a", (4,), 0.0)
    expected = [0.16906159, -0.15214765, -0.06243652, -0.06120192]
    np.testing.assert_allclose(row, expected, rtol=1e-6)
