"""Exported runs load, and hold what was trained."""

import json
import shutil

import numpy as np
import pytest
from train_settings import changed, make_policy_dir, quick_settings

from gru_mem_jax.agent.config import config_from_json
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.rl import lora
from gru_mem_jax.rl.lora import LoraConfig
from gru_mem_jax.tokenization import TextTokenizer
from gru_mem_jax.train.export import export_run, model_card

LORA = changed(
    quick_settings(num_steps=1, eval_every=0),
    learner={"lora": LoraConfig(rank=2), "learning_rate": 0.05},
)


def same_params(directory, arrays, prefix="params."):
    _, params = load_policy(directory)
    got = {
        "embedding": params["ends"]["embedding"],
        "down": params["layers"]["mlp"]["down"]["kernel"],
    }
    names = {"embedding": "ends.embedding", "down": "layers.mlp.down.kernel"}
    return {
        k: np.asarray(v).tobytes() == arrays[prefix + names[k]] for k, v in got.items()
    }


def test_the_newest_step_and_an_older_one(unbroken, policy_dir, tmp_path):
    run = unbroken(quick_settings())
    assert export_run(run.path, tmp_path / "new") == 5
    assert export_run(run.path, tmp_path / "old", step=2) == 2
    assert same_params(tmp_path / "new", run.saved(5)) == {
        "embedding": True,
        "down": True,
    }
    assert same_params(tmp_path / "old", run.saved(2))["down"]
    assert not same_params(tmp_path / "old", run.saved(5))["down"]
    encoders = [
        TextTokenizer.from_pretrained(d) for d in (policy_dir, tmp_path / "new")
    ]
    text = "The code for <think> is x."
    assert encoders[0].encode(text) == encoders[1].encode(text)
    agent = config_from_json((tmp_path / "new" / "gru_mem.json").read_text())
    assert (agent.chunk_size, agent.prompt.style) == (48, "compact")
    card = (tmp_path / "old" / "README.md").read_text()
    assert "for 2 steps" in card
    assert "| 2 | " in card
    assert "| 3 | " not in card


def test_cards_show_some_rows_and_the_last():
    rows = [{"step": i, "exact": i / 20} for i in range(1, 21)]
    lines = [line for line in model_card(rows, 20).splitlines() if line[0:1] == "|"]
    assert lines[0] == "| step | exact |"
    assert lines[2] == "| 1 | 0.05 |"
    assert lines[-1] == "| 20 | 1 |"
    assert len(lines) <= 2 + 7
    assert "No rows" in model_card([], 3)


def test_lora_merged_and_alone(unbroken, policy_dir, tmp_path):
    run = unbroken(LORA)
    export_run(run.path, tmp_path / "merged", policy_dir=str(policy_dir))
    export_run(run.path, tmp_path / "peft", adapters=True)
    assert {p.name for p in (tmp_path / "peft").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
    }
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["r"] == 2
    policy, base = load_policy(policy_dir)
    shapes = lora.abstract_adapters(policy, LoraConfig(rank=2))
    arrays = run.saved(1)
    adapters = {"layers": {"attn": {}, "mlp": {}}}
    for part, kernels in shapes["layers"].items():
        for name, pair in kernels.items():
            adapters["layers"][part][name] = {
                letter: np.frombuffer(
                    arrays[f"params.layers.{part}.{name}.{letter}"], np.float32
                ).reshape(leaf.shape)
                for letter, leaf in pair.items()
            }
    want = lora.merge(base, adapters, LoraConfig(rank=2).scale)
    _, got = load_policy(tmp_path / "merged")
    for part, name in (("attn", "q"), ("mlp", "up")):
        kernels = [p["layers"][part][name]["kernel"] for p in (got, want, base)]
        np.testing.assert_array_equal(kernels[0], kernels[1])
        assert np.abs(np.asarray(kernels[0] - kernels[2])).max() > 1e-4


def test_what_cannot_be_exported(unbroken, policy_dir, tmp_path):
    run, adapted = unbroken(quick_settings()), unbroken(LORA)
    with pytest.raises(InputError, match="has no step 3"):
        export_run(run.path, tmp_path / "a", step=3)
    with pytest.raises(InputError, match="not trained with LoRA"):
        export_run(run.path, tmp_path / "a", adapters=True)
    with pytest.raises(InputError, match="name the policy that it began with"):
        export_run(adapted.path, tmp_path / "a")
    other = make_policy_dir(tmp_path, seed=1)
    with pytest.raises(InputError, match="other weights than the policy"):
        export_run(adapted.path, tmp_path / "a", policy_dir=str(other))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for adapters, path in ((False, run.path), (True, adapted.path)):
        with pytest.raises(InputError, match="not empty"):
            export_run(path, tmp_path / "full", adapters=adapters)
    broken = tmp_path / "run"
    shutil.copytree(run.path, broken)
    next(broken.glob("checkpoints/5/params/**/d/*")).write_bytes(b"")
    with pytest.raises(RunError, match=r"checkpoints/5: damaged"):
        export_run(broken, tmp_path / "a")
    assert not (tmp_path / "a").exists()
