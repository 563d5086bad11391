"""Exported runs load, and hold what was trained."""

import json
import shutil

import numpy as np
import pytest
from train_settings import changed, make_policy_dir, quick_settings

from gru_mem_jax.agent.config import config_from_json
from gru_mem_jax.cli.main import main
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.rl import lora
from gru_mem_jax.rl.lora import LoraConfig
from gru_mem_jax.runs.export import export_run, model_card
from gru_mem_jax.tokenization import TextTokenizer

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


def test_a_run_in_a_folder_of_any_name(make_run, unbroken, tmp_path):
    name = "sweep [lr=3e-4] a\\b **50%41** 'ü'\n#1"
    settings = quick_settings(num_steps=2, save_every=1, keep=1)
    run = make_run(f"{name}/run")
    assert run(quick_settings(num_steps=1, save_every=1, keep=1)).step == 1
    assert run(settings).finished
    assert export_run(run.path, tmp_path / name / "out") == 2
    plain = unbroken(quick_settings())
    arrays = plain.saved(2)
    assert same_params(tmp_path / name / "out", arrays) == {
        "embedding": True,
        "down": True,
    }
    shown = main(["show", str(run.path), "--limit", "1"])
    assert shown == main(["plot", str(run.path)]) == 0


def test_cards_show_some_rows_and_the_last():
    rows = [{"step": i, "exact": i / 20} for i in range(1, 21)]
    lines = [line for line in model_card(rows, 20).splitlines() if line[0:1] == "|"]
    assert lines[0] == "| step | exact % |"
    assert lines[2] == "| 1 | 5.0 |"
    assert lines[-1] == "| 20 | 100.0 |"
    assert len(lines) <= 2 + 7
    assert "No rows" in model_card([], 3)
    assert "Trained by reinforcement learning with" in model_card(rows, 20)
    learned = model_card([{"step": 1, "loss": 0.5}], 1, supervised=True)
    assert "Trained on supervised turns with gru_mem_jax for 1 steps" in learned
    assert "tags: [gru-mem, long-context, sft]" in learned
    # What is no finite number is a string in metrics.jsonl, and absent from a card.
    card = model_card([{"step": 1, "kl": "nan", "exact": 0.5}], 1)
    assert "| 1 | 50.0 |  |" in card
    # What the columns mean stands below them.
    assert "- exact %: mean score of the answers\n- kl: k3 estimate" in card


@pytest.fixture(scope="session")
def exported(unbroken, tmp_path_factory):
    """What `gru-mem export` makes, and the run."""
    run = unbroken(quick_settings())
    out = tmp_path_factory.mktemp("exported") / "policy"
    flags = [f"--out={out}", "--step=4", "--dtype=bfloat16"]
    assert main(["export", str(run.path), *flags]) == 0
    return out, run


def test_the_command_writes_a_whole_directory(exported, capsys):
    out, run = exported
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "gru_mem.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert "for 4 steps" in (out / "README.md").read_text()
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    settings = json.loads((out / "gru_mem.json").read_text())
    assert (settings["chunk_size"], settings["memory_tokens"]) == (48, 24)
    # The stored numbers are those of the step, rounded once.
    _, params = load_policy(out)
    want = np.frombuffer(run.saved(4)["params.ends.embedding"], np.float32)
    got = np.asarray(params["ends"]["embedding"]).astype(np.float32).ravel()
    np.testing.assert_allclose(got, want, rtol=2**-8)
    capsys.readouterr()
    assert main(["export", str(run.path), f"--out={out}"]) == 2
    assert "not empty; nothing is overwritten" in capsys.readouterr().err


def test_transformers_and_ask_load_it(exported, tmp_path, capsys, monkeypatch):
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    out, _ = exported
    encoder = TextTokenizer.from_pretrained(out)
    assert AutoConfig.from_pretrained(out).model_type == "qwen2"
    assert GenerationConfig.from_pretrained(out).eos_token_id == encoder.stop_ids[0]
    tokenizer = AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "heron"}]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert text == encoder.render_chat(messages)
    (tmp_path / "context.txt").write_text(
        "The code for heron is amber anchor bolt. " * 9
    )
    monkeypatch.setenv("GRU_MEM_CACHE_DIR", "off")  # it is jax's own, process-wide
    flags = [f"--policy={out}", f"--context={tmp_path / 'context.txt'}", "--json=-"]
    flags += ["--question=Which code belongs to heron?", "--dtype=float32"]
    capsys.readouterr()
    assert main(["ask", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["chunk_size"] == 48
    assert found["turns"][-1]["kind"] == "answer"


@pytest.mark.torch
def test_transformers_computes_what_was_trained(exported):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    out, _ = exported
    policy, params = load_policy(out, "float32")
    ids = np.arange(1, 13)[None]
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        want = model(torch.as_tensor(ids)).logits.numpy()
    positions = np.arange(12, dtype=np.int32)[None]
    got = np.asarray(policy.apply(params, ids.astype(np.int32), positions))
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_lora_merged_and_alone(unbroken, policy_dir, tmp_path):
    run = unbroken(LORA)
    export_run(run.path, tmp_path / "merged", policy_dir=str(policy_dir))
    export_run(run.path, tmp_path / "peft", adapters=True)
    assert {p.name for p in (tmp_path / "peft").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "gru_mem.json",
        "README.md",
    }
    settings = (tmp_path / "merged" / "gru_mem.json").read_text()
    assert config_from_json(settings).chunk_size == 48
    assert (tmp_path / "peft" / "gru_mem.json").read_text() == settings
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
    want = lora.merge(base, adapters, LoraConfig(rank=2))
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
