"""A head that config.json ties to the embedding: equal, another one, alone, missing.

What transformers makes of the same directories is compared in test_hub_weights.py.
"""

import json

import hub_weights
import numpy as np
import pytest
from hub_weights import LAYOUTS, values_of, write, write_weights

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy import checkpoint_files
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.policy.hf import load_config, load_policy
from gru_mem_jax.policy.hf_export import export_policy

TIED = {  # and in how many files
    "qwen2.5_0.5b_instruct": 1,
    "qwen3_0.6b": 3,
    "llama3.2_1b_instruct": 1,
    "gemma3_1b_it": 3,
    "gemma3_4b_it": 2,
}
QWEN3 = LAYOUTS["qwen3_0.6b"]
EMBEDDING = "model.embed_tokens.weight"


def tensors(layout=QWEN3):
    """The layout's tensors, and its embedding."""
    values = values_of(layout, layout.config_json())
    return values, values[f"{layout.prefix}embed_tokens.weight"]


def head_of(params):
    return np.asarray(params["ends"]["head"]["kernel"]).T


@pytest.mark.parametrize(("name", "shards"), TIED.items())
def test_another_head_is_used_and_named(tmp_path, name, shards):
    layout = LAYOUTS[name]
    values, embedding = tensors(layout)
    head = np.roll(embedding, 7, axis=0)
    write(tmp_path / "p", layout, values=values)
    for file in (tmp_path / "p").glob("*.safetensors*"):
        file.unlink()
    write_weights(tmp_path / "p", {**values, layout.head: head}, shards)
    config = load_config(open_policy_dir(tmp_path / "p"))
    assert not config.tie_word_embeddings  # known before a weight is read
    with pytest.warns(UserWarning, match=f"hold {layout.head}, which is not the") as w:
        policy, params = load_policy(tmp_path / "p")
    assert [str(tmp_path / "p") in str(warning.message) for warning in w] == [True]
    assert policy.config == config
    np.testing.assert_array_equal(head_of(params), head)
    np.testing.assert_array_equal(params["ends"]["embedding"], embedding)
    # Its export says what it is, and needs no warning.
    export_policy(policy, params, tmp_path / "x")
    record = json.loads((tmp_path / "x" / "config.json").read_text())
    assert record["tie_word_embeddings"] is False
    again, same = load_policy(tmp_path / "x")
    assert again.config == config
    np.testing.assert_array_equal(head_of(same), head)


@pytest.mark.parametrize(("name", "shards"), TIED.items())
def test_an_equal_head_stays_tied(tmp_path, name, shards):
    layout = LAYOUTS[name]
    values, embedding = tensors(layout)
    write(tmp_path, layout, values=values)
    for file in tmp_path.glob("*.safetensors*"):
        file.unlink()
    write_weights(tmp_path, {**values, layout.head: embedding.copy()}, shards)
    assert load_config(open_policy_dir(tmp_path)).tie_word_embeddings
    if shards == 1:
        _, params = load_policy(tmp_path)  # without a warning
        assert "head" not in params["ends"]


@pytest.mark.parametrize(
    ("embedding", "head", "stated", "tied"),
    [
        # The head is the embedding's rounding: another one, unless both are rounded.
        ("float32", "float16", "float32", False),
        ("float32", "float16", "float16", True),
        ("float32", "float16", "torch.float16", True),
        ("float32", "float16", "bfloat16", False),
        ("float32", "float16", None, True),  # of the first tensor, which is the head
        ("float32", "bfloat16", "float32", False),
        ("float32", "bfloat16", "bfloat16", True),
        # The embedding is rounded already, and the head the same in a wider dtype.
        ("float16", "float32", "float16", True),
        ("float16", "float32", "float32", True),
        ("bfloat16", "float32", None, True),
    ],
)
def test_heads_of_another_dtype(tmp_path, embedding, head, stated, tied):
    """They are compared in the dtype that transformers loads them in."""
    values, exact = tensors()
    exact = exact.astype(hub_weights.DTYPES[embedding])
    extra = {EMBEDDING: exact, "lm_head.weight": exact.astype(hub_weights.DTYPES[head])}
    config = {"dtype": None, "torch_dtype": stated}
    write(tmp_path, QWEN3, config=config, values=values)
    write_weights(tmp_path, {**values, **extra})
    assert load_config(open_policy_dir(tmp_path)).tie_word_embeddings is tied


def test_values_beyond_the_dtype_are_compared_in_silence(tmp_path):
    """1e6 and 2e6 are both infinite in float16, and those are equal."""
    values, embedding = tensors()
    embedding[0, 0] = 1e6
    head = embedding.copy()
    head[0, 0] = 2e6
    write(tmp_path, QWEN3, config={"dtype": "float16"})
    write_weights(tmp_path, {**values, EMBEDDING: embedding, "lm_head.weight": head})
    assert load_config(open_policy_dir(tmp_path)).tie_word_embeddings


def test_the_last_row_counts_and_rows_are_read_in_blocks(tmp_path, monkeypatch):
    values, embedding = tensors()
    head = embedding.copy()
    head[-1, -1] += 1
    write(tmp_path, QWEN3, values={**values, "lm_head.weight": head})
    monkeypatch.setattr(checkpoint_files, "_REOPEN_AFTER", 100 * 4 * 32)
    read = []
    rows = checkpoint_files._rows

    def counted(directory, file, name, part):
        read.append((name, part.stop - part.start))
        return rows(directory, file, name, part)

    monkeypatch.setattr(checkpoint_files, "_rows", counted)
    assert not load_config(open_policy_dir(tmp_path)).tie_word_embeddings
    pair = (EMBEDDING, "lm_head.weight")
    assert read == [(name, size) for size in (100, 100, 88) for name in pair]
    head[0, 0] += 1  # and none is read after the first that differs
    write_weights(tmp_path, {**values, "lm_head.weight": head})
    read.clear()
    assert not load_config(open_policy_dir(tmp_path)).tie_word_embeddings
    assert len(read) == 2


def test_a_tied_pair_that_was_saved_by_its_heads_name(tmp_path):
    values, embedding = tensors()
    del values[EMBEDDING]
    write(tmp_path, QWEN3, values={**values, "lm_head.weight": embedding})
    policy, params = load_policy(tmp_path)
    assert policy.config.tie_word_embeddings
    np.testing.assert_array_equal(params["ends"]["embedding"], embedding)


def test_no_head_though_config_says_that_there_is_one(tmp_path):
    """transformers makes a random one and warns; nobody wants to use that."""
    write(tmp_path, QWEN3, values=tensors()[0], config={"tie_word_embeddings": False})
    with pytest.raises(PolicyError, match=r"'lm_head\.weight' .* set it to true if"):
        load_policy(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_two_heads_are_refused(tmp_path, tied):
    values, embedding = tensors()
    heads = dict.fromkeys(
        ("lm_head.weight", "language_model.lm_head.weight"), embedding
    )
    write(tmp_path, QWEN3, config={"tie_word_embeddings": tied})
    write_weights(tmp_path, {**values, **heads})
    with pytest.raises(PolicyError, match=r"'language_model\.lm_head\.weight' is not"):
        load_policy(tmp_path)


def test_a_head_of_another_shape_is_named(tmp_path):
    values, embedding = tensors()
    write(tmp_path, QWEN3, values={**values, "lm_head.weight": embedding[:-1]})
    with pytest.raises(PolicyError, match=r"'lm_head\.weight': expected shape \(288"):
        load_policy(tmp_path)


@pytest.mark.parametrize("outer", [None, True, False])
@pytest.mark.parametrize("inner", [None, True, False])
def test_around_a_text_model_the_outer_config_decides(tmp_path, outer, inner):
    layout = LAYOUTS["gemma3_4b_it"]
    text = dict(layout.config["text_config"])
    changes = {"text_config": text}
    if inner is not None:
        text["tie_word_embeddings"] = inner
    if outer is not None:
        changes["tie_word_embeddings"] = outer
    write(tmp_path, layout, values=tensors(layout)[0], config=changes)
    config = load_config(open_policy_dir(tmp_path))
    assert config.tie_word_embeddings is (outer is not False)


def test_without_weights_the_configuration_is_what_it_says(tmp_path):
    write(tmp_path, QWEN3)
    (tmp_path / "model.safetensors").unlink()
    assert load_config(open_policy_dir(tmp_path)).tie_word_embeddings
