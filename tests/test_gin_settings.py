"""What the gin files of hardware and of experiments come to."""

import dataclasses
import importlib
import math
import pathlib
import re

import pytest

from gru_mem_jax.cli.gin_config import GinConfig
from gru_mem_jax.cli.train import configurables
from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.hotpotqa import HotpotQASource
from gru_mem_jax.data.jsonl import JsonlSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.planning.chips import CHIPS
from gru_mem_jax.planning.models import model_shape
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.rollout import check_agent
from gru_mem_jax.tiny.sources import SyntheticSuite
from gru_mem_jax.train import config
from gru_mem_jax.train.footprint import memory_estimate

ROOT = pathlib.Path(__file__).resolve().parents[1]
_QWEN3 = {"family": "qwen3", "num_hidden_layers": 36, "head_dim": 128}
_QWEN3 |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936}
_GEMMA3 = {"family": "gemma3_text", "head_dim": 256}

# From the models' config.json.
SHAPES = {
    "qwen2_5_0_5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "qwen2_5_3b": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
    "qwen2_5_7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "qwen3_4b": _QWEN3 | {"hidden_size": 2560, "intermediate_size": 9728},
    "qwen3_8b": _QWEN3
    | {"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False},
    "llama3_2_3b": {
        "family": "llama",
        "vocab_size": 128256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "gemma3_1b": _GEMMA3
    | {
        "vocab_size": 262144,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "sliding_window": 512,
    },
    "gemma3_4b": _GEMMA3
    | {
        "vocab_size": 262208,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "sliding_window": 1024,
    },
}
FILES = sorted(p.stem for p in (ROOT / "gin/hardware").glob("*.gin"))
HARDWARE = [name for name in FILES if name.endswith("x80gb")]
SLICES = [name for name in FILES if name not in HARDWARE]
PAPER = ("paper_3b", "paper_7b", "memagent_7b")
ABLATIONS = ("alpha_0_5", "alpha_1_0", "answer_only", "gdpo")


def gin_of(*files, **macros):
    """(GinConfig, settings), as `gru-mem train` makes them for a bare policy."""
    bindings = [f"{name} = {value!r}" for name, value in macros.items()]
    gin = GinConfig(configurables(), [f"gin/{file}.gin" for file in files], bindings)
    settings = gin.build(config.TrainConfig(agent=config.AgentConfig()))
    gin.check_all_read()
    return gin, settings


def settings_of(*files, **macros):
    return gin_of(*files, **macros)[1]


def test_every_model_has_its_hardware():
    assert sorted(SHAPES) == [re.sub(r"_\dx80gb$", "", name) for name in HARDWARE]


@pytest.mark.parametrize("name", HARDWARE)
def test_a_model_fits_the_hardware_of_its_file(name):
    settings = settings_of(
        "experiments/paper", f"hardware/{name}", POLICY="p", DATA="d.json"
    )
    model, devices = re.fullmatch(r"(.*)_(\d)x80gb", name).groups()
    # As the budgets, and a template of 290 tokens, make it.
    lengths = {"trunk_length": 6336, "tail_length": 2368}
    engine = dataclasses.replace(settings.engine.lowered_to(8384), **lengths)
    estimate = memory_estimate(
        make_policy(PolicyConfig(**SHAPES[model])),
        settings.learner,
        settings.mesh,
        engine,
        reference=True,
        dtype="bfloat16",
    )
    header = (ROOT / f"gin/hardware/{name}.gin").read_text()
    said = "One GPU of 80 GB" if devices == "1" else f"{devices} GPUs of 80 GB"
    assert f"# {said}: " in header
    assert settings.mesh.fsdp == int(devices)
    told = float(re.search(r"([\d.]+) GiB by formula", header)[1])
    assert estimate["total"] / 2**30 == pytest.approx(told, abs=0.06)
    # 80 GB are 74.5 GiB, and the truth may be a fifth above the formula.
    assert told * 1.2 < 74.5
    assert settings.learner.row_tokens >= settings.engine.max_length
    assert settings.engine.trunks >= settings.engine.slots // 16


@pytest.mark.parametrize("name", SLICES)
def test_a_model_goes_with_the_slice_of_its_file(name):
    settings = settings_of(
        "experiments/paper", f"hardware/{name}", POLICY="p", DATA="d.json"
    )
    model, chip, sizes = re.fullmatch(r"(.*)_(v5e|v5p|v6e)_([\dx]+)", name).groups()
    header = (ROOT / f"gin/hardware/{name}.gin").read_text()
    assert f"--topology {chip}:{sizes} " in header
    chips = math.prod(map(int, sizes.split("x")))
    assert f"# {chips} chips of TPU {chip}: " in header
    mesh, engine = settings.mesh, settings.engine
    assert mesh.data * mesh.fsdp * mesh.tensor == chips
    shape = PolicyConfig(**SHAPES[model])
    named = model_shape(re.search(r"--model (\S+)", header)[1])
    assert dataclasses.replace(named, rope=shape.rope) == shape
    # Whole tiles of bfloat16, or each gather is an all-reduce of padded weights.
    assert shape.hidden_size % (16 * mesh.fsdp) == 0
    assert shape.num_key_value_heads % engine.tensor == 0
    lengths = {"trunk_length": 6336, "tail_length": 2368}
    estimate = memory_estimate(
        make_policy(shape),
        dataclasses.replace(settings.learner, attention="splash"),
        mesh,
        dataclasses.replace(engine.lowered_to(8384), **lengths),
        reference=True,
        dtype="bfloat16",
    )
    told = float(re.search(r"([\d.]+) GiB by formula", header)[1])
    assert estimate["total"] / 2**30 == pytest.approx(told, abs=0.06)
    (memory,) = [c.memory for c in CHIPS if c.name == chip]
    assert told < memory / 2**30
    # A group's turns of a chunk are one tree in a row, and find trunks in the engine.
    assert settings.learner.row_tokens >= engine.max_length
    assert engine.trunks >= engine.slots // 16


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_constants(name):
    settings = settings_of(f"experiments/{name}", POLICY="p", DATA="d.json", SEED=5)
    loop, agent, learner = settings.loop, settings.agent, settings.learner
    rollouts = settings.rollouts
    assert (rollouts.questions_per_step, rollouts.group_size, loop.seed) == (128, 16, 5)
    assert rollouts.dynamic_sampling
    assert (learner.learning_rate, learner.warmup_steps) == (1e-6, 20)
    assert learner.compute_dtype == settings.engine.dtype == "bfloat16"
    objective = settings.objective
    assert (objective.eps_low, objective.eps_high, objective.beta) == (0.2, 0.28, 1e-3)
    assert agent.chunk_size == 5000
    assert (agent.question_tokens, agent.memory_tokens) == (1024, 1024)
    assert (agent.completion_tokens, agent.prompt_tokens) == (1024, 8192)
    assert (agent.sampling.temperature, agent.sampling.top_p) == (1.0, 1.0)
    check_agent(agent)
    assert agent.chunk_first == (name != "memagent_7b")
    rewards = settings.rewards
    assert (rewards.exact_exit, rewards.early_exit, rewards.late_exit) == (
        0,
        -0.75,
        -0.5,
    )
    assert settings.source == HotpotQASource(path="d.json", paragraphs=200, seed=5)
    gated = name != "memagent_7b"
    assert agent.mode == ("with_exit_gate" if gated else "memagent")
    assert settings.advantages.alpha == (0.9 if gated else 1.0)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_runs_are_scored_on_another_file(name):
    macros = {"POLICY": "p", "DATA": "d.json"}
    settings = settings_of(f"experiments/{name}", EVAL_DATA="dev.json", **macros)
    assert settings.loop.eval_every == 0
    (found,) = settings.suite.question_sets()
    assert (found.name, found.start, found.count) == ("hotpotqa", 0, 128)
    assert found.source == HotpotQASource(
        path="dev.json", paragraphs=200, scoring="boxed"
    )
    # Without one it is the trained file, which an evaluation refuses.
    (found,) = settings_of(f"experiments/{name}", **macros).suite.question_sets()
    assert found.source.path == "d.json"


def labelled(command, *files, **macros):
    """Settings of a run on labelled questions, on a 3B model's hardware."""
    module = importlib.import_module(f"gru_mem_jax.cli.{command}")
    names = [f"gin/{file}.gin" for file in (*files, "hardware/qwen2_5_3b_8x80gb")]
    macros = {"POLICY": "p", "DATA": "d", "SEED": 5} | macros
    bindings = [f"{name} = {value!r}" for name, value in macros.items()]
    gin = GinConfig(module.configurables(), names, bindings)
    cls = {"sft": config.SFTConfig, "train": config.TrainConfig}[command]
    settings = gin.build(cls(agent=config.AgentConfig()))
    gin.check_all_read()
    return settings


@pytest.mark.parametrize(
    ("command", "file", "source"),
    [
        ("sft", "runs/sft_labelled", JsonlSource(path="d", on_bad_record="skip")),
        ("train", "runs/train_labelled", JsonlSource(path="d")),
        (
            "sft",
            "experiments/hotpotqa_sft",
            HotpotQASource(path="d", on_bad_record="skip"),
        ),
    ],
)
def test_runs_on_labelled_questions_hold_a_part_out(command, file, source):
    settings = labelled(command, file)
    parts = {
        part: dataclasses.replace(source, part=part, seed=5)
        for part in ("train", "held_out")
    }
    assert settings.source == parts["train"]
    (found,) = settings.suite.question_sets()
    assert (found.name, found.count, found.source) == (
        "held_out",
        32,
        parts["held_out"],
    )
    assert settings.loop.eval_every > 0
    assert settings.learner.row_tokens >= settings.engine.max_length
    assert settings.engine.trunks >= settings.engine.slots // 16
    if command == "sft":
        assert settings.held_out == parts["held_out"]
        assert isinstance(settings.turns, EvidenceTurns)
        assert (settings.learner.learning_rate, settings.learner.remat) == (2e-5, True)
        assert settings.rows % settings.mesh.fsdp == 0


def test_what_the_papers_files_leave_to_the_command_line():
    with pytest.raises(InputError, match=r"--gin\.DATA=\.\.\. --gin\.POLICY=\.\.\."):
        settings_of("experiments/paper_7b")


def test_the_papers_runs_differ_by_their_model_only():
    texts = [
        (ROOT / f"gin/experiments/{name}.gin").read_text().splitlines()
        for name in ("paper_3b", "paper_7b")
    ]
    small, large = ([t for t in text if not t.startswith("#")] for text in texts)
    assert small[0] == large[0] == "include 'gin/experiments/paper.gin'"
    assert len(small) == len(large) == 2


def changes(plain, found):
    """The values of `found` where it differs, by part.field."""
    return {
        f"{part.name}.{field.name}": getattr(getattr(found, part.name), field.name)
        for part in dataclasses.fields(plain)
        if dataclasses.is_dataclass(getattr(plain, part.name))
        for field in dataclasses.fields(getattr(plain, part.name))
        if getattr(getattr(plain, part.name), field.name)
        != getattr(getattr(found, part.name), field.name)
    }


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_differ_from_the_tiny_run_in_what_they_say(name):
    plain = settings_of("experiments/tiny", POLICY="p")
    found = settings_of(f"experiments/{name}", POLICY="p")
    alpha = {"advantages.alpha": 0.5 if name == "alpha_0_5" else 1.0}
    if name == "gdpo":
        alpha = {"advantages.decoupled": True}
    weights = dict.fromkeys(("exit", "format", "update"), 0.0)
    only = {f"rewards.{k}_weight": v for k, v in weights.items()}
    assert changes(plain, found) == alpha | (only if name == "answer_only" else {})


def test_other_runs_have_the_constants_of_the_stable_recipe():
    settings = settings_of("runs/train", POLICY="p")
    objective, agent = settings.objective, settings.agent
    assert (objective.eps_low, objective.eps_high, objective.beta) == (0.2, 0.2, 1e-3)
    assert not settings.advantages.normalize_std
    assert (agent.sampling.temperature, agent.sampling.top_p) == (1.0, 1.0)
    assert settings.rewards.scoring is None
    example = Example(id="1", question="Q?", answers=("a",), document="", task="t")
    assert example.scoring == "exact"


def test_the_tiny_run_sets_what_must_stay_comparable():
    """Figures of earlier runs are compared with: no default may change these."""
    settings = settings_of("experiments/tiny", POLICY="p")
    objective = settings.objective
    assert (objective.eps_low, objective.eps_high, objective.beta) == (0.2, 0.28, 1e-3)
    assert settings.advantages.alpha == 0.9
    rewards = settings.rewards
    assert (rewards.exact_exit, rewards.early_exit, rewards.late_exit) == (
        0,
        -0.75,
        -0.5,
    )


def test_the_evaluation_of_a_policy():
    from gru_mem_jax.cli.evaluating import configurables as evaluated

    gin = GinConfig(evaluated(), ["gin/runs/evaluate.gin"], [])
    suite = gin.build(SyntheticSuite())
    gin.check_all_read()
    assert suite.contexts == (("uniform", 8), ("first_20", 32))
    assert len(list(suite.question_sets())) == 2 * len(suite.tasks)


# -- the text of the settings in force -------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", *ABLATIONS, *PAPER])
def test_the_operative_text_names_public_classes_and_gives_the_same_run(name, tmp_path):
    data = {"DATA": "d.json"} if name in PAPER else {}
    gin, settings = gin_of(f"experiments/{name}", POLICY="p", **data)
    text = gin.operative_text()
    imported = re.findall(r"^(?:from|import) .*", text, re.MULTILINE)
    assert imported[0] == "from __gin__ import dynamic_registration"
    for line in imported[1:]:
        assert re.fullmatch(r"from gru_mem_jax import \w+", line)
    (tmp_path / "operative.gin").write_text(text)
    again = GinConfig((), [str(tmp_path / "operative.gin")])
    assert again.build(config.TrainConfig(agent=config.AgentConfig())) == settings
    again.check_all_read()
    assert again.operative_text() == text


def test_a_file_with_inner_names_gives_the_same_text(tmp_path):
    """Modules may move: a run's settings are compared with those of its next start."""
    inner = tmp_path / "inner.gin"
    inner.write_text(
        "from __gin__ import dynamic_registration\n"
        "from gru_mem_jax.train import config\n"
        "import gru_mem_jax.rl.optimizer\n"
        "config.LoopConfig.num_steps = 3\n"
        "gru_mem_jax.rl.optimizer.LearnerConfig.eps = 1e-6\n"
    )
    texts = []
    for files, flags in (
        ([str(inner)], []),
        ([], ["LoopConfig.num_steps = 3", "LearnerConfig.eps = 1e-6"]),
        ([], ["train.LoopConfig.num_steps = 3", "rl.LearnerConfig.eps = 1e-6"]),
    ):
        gin = GinConfig(configurables(), files, flags)
        gin.build(config.TrainConfig())
        gin.check_all_read()
        texts.append(gin.operative_text())
    assert texts[0] == texts[1] == texts[2]
    assert "train.LoopConfig.num_steps = 3" in texts[0]


# -- the twin for a laptop -------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "answer_only", "paper_3b", "memagent_7b"])
def test_the_twin_makes_a_run_small_and_leaves_it_the_same_run(name):
    macros = {"POLICY": "p"} | ({"DATA": "d.json"} if name in PAPER else {})
    whole = settings_of(f"experiments/{name}", **macros)
    small = settings_of(f"experiments/{name}", "local_tiny", **macros)
    for part in ("source", "rewards", "advantages", "objective"):
        assert getattr(small, part) == getattr(whole, part)
    assert small.agent.mode == whole.agent.mode
    assert small.agent.sampling == whole.agent.sampling
    rollouts = small.rollouts
    assert small.loop.num_steps == 2
    assert (rollouts.questions_per_step, rollouts.group_size) == (2, 2)
    assert (small.mesh.data, small.mesh.fsdp, small.mesh.tensor) == (1, 1, 1)
    assert small.learner.compute_dtype is small.engine.dtype is None
    assert max(small.learner.row_tokens, small.engine.max_length) == 1024
