"""What decides ids, stops, sampling and head comes through a run that trains."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from train_settings import AGENT, of_policy, quick_settings, quick_sft

from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.agent_settings import policy_settings
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.runs.export import export_run
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tokenization import TextTokenizer
from gru_mem_jax.train import sft

GENERATION = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:[^ ]* config.json says tie_word_embeddings"
)


@pytest.fixture(scope="module")
def odd_dir(policy_dir, tmp_path_factory):
    """Tied in config with another head in the file; two ids stop; pad elsewhere."""
    directory = tmp_path_factory.mktemp("odd") / "policy"
    shutil.copytree(policy_dir, directory)
    tensors = load_file(directory / "model.safetensors")
    head = np.roll(tensors["model.embed_tokens.weight"], 7, axis=0)
    tensors["lm_head.weight"] = np.ascontiguousarray(head)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    encoder = TextTokenizer.from_pretrained(directory)
    ends = (word_tokenizer.END, word_tokenizer.END_OF_TEXT)
    ids = [encoder.encode_control(text)[0] for text in ends]
    record = {**GENERATION, "eos_token_id": ids, "pad_token_id": ids[1]}
    (directory / "generation_config.json").write_text(json.dumps(record))
    roles = {"eos_token": ends[0], "pad_token": ends[1]}
    (directory / "special_tokens_map.json").write_text(json.dumps(roles))
    return directory, ids


def assert_comes_through(source, out, ids):
    for name in ("generation_config.json", "special_tokens_map.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert set(TextTokenizer.from_pretrained(out).stop_ids) == set(ids)
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is False


@pytest.mark.slow
def test_a_run_that_is_resumed(odd_dir, make_run, tmp_path):
    source, ids = odd_dir
    run = make_run()
    quick = {"eval_every": 0, "save_every": 1}
    run(quick_settings(num_steps=1, **quick), policy_dir=source)
    run(quick_settings(num_steps=2, **quick), policy_dir=source)
    assert export_run(run.path, tmp_path / "x") == 2
    assert_comes_through(source, tmp_path / "x", ids)
    sampling = policy_settings(open_policy_dir(tmp_path / "x")).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.6, 20, 0.95)
    # The head was trained as the tensor that it is.
    _, before = load_policy(source)
    _, after = load_policy(tmp_path / "x")
    for name in ("embedding", "head"):
        one, other = before["ends"][name], after["ends"][name]
        if name == "head":
            one, other = one["kernel"], other["kernel"]
        difference = np.abs(np.asarray(one) - np.asarray(other)).max()
        assert 1e-5 < difference < 0.5
    # Where else it stops is another policy.
    changed = tmp_path / "changed"
    shutil.copytree(source, changed)
    record = json.loads((changed / "generation_config.json").read_text())
    record["eos_token_id"] = ids[0]
    (changed / "generation_config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"generation_config\.json differs: eos_token"):
        run(quick_settings(num_steps=3, **quick), policy_dir=changed)


def test_supervised_training_from_it(odd_dir, tmp_path):
    source, ids = odd_dir
    settings = of_policy(quick_sft(num_steps=2, eval_every=0), source)
    agent = dataclasses.replace(AGENT, chunk_size=64, completion_tokens=64)
    settings = dataclasses.replace(settings, agent=agent)
    sft(settings, tmp_path / "sft", quiet=True)
    export_run(tmp_path / "sft", tmp_path / "x")
    assert_comes_through(source, tmp_path / "x", ids)
