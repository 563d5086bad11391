"""Plans and suggestions, on virtual devices of a made-up chip; and one by libtpu."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptConfig
from gru_mem_jax.cli.main import main
from gru_mem_jax.cli.plan import ENVIRONMENT
from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig
from gru_mem_jax.planning import chips, programs
from gru_mem_jax.planning.chips import GIB
from gru_mem_jax.planning.measured import COMPUTE, MEMORY, NETWORK, Measured, measure
from gru_mem_jax.planning.plan import Lengths, plan_run
from gru_mem_jax.planning.suggest import changes, suggest
from gru_mem_jax.planning.text import describe
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.rl.objective import ObjectiveConfig
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.train.config import LoopConfig, RolloutConfig, TrainConfig

NEEDS_LIBTPU = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="compiling for a TPU needs libtpu, of the extra tpu",
)
SHAPE = PolicyConfig(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=128,
)
LENGTHS = Lengths(document=300, completion=16, template=20)
CHIP = chips.Chip(
    name="toy",
    device_kind="cpu",
    flops=1e12,
    memory=GIB,
    memory_bandwidth=1e11,
    link_bandwidth=1e11,
    source="https://example.org",
)


@pytest.fixture(autouse=True)
def toy_chip(monkeypatch):
    monkeypatch.setattr(chips, "CHIPS", (CHIP,))


def config(**parts):
    settings = {
        "loop": LoopConfig(num_steps=10),
        "rollouts": RolloutConfig(questions_per_step=8, group_size=4),
        "agent": AgentConfig(
            chunk_size=100,
            question_tokens=32,
            memory_tokens=32,
            completion_tokens=32,
            prompt=PromptConfig(order="chunk_first"),
        ),
        "learner": LearnerConfig(
            row_tokens=256, logits_chunk=128, optimizer_steps_per_batch=2
        ),
        "engine": EngineConfig(
            slots=4,
            max_length=256,
            trunks=2,
            tensor=1,
            prefill_blocks=(32,),
            prefill_tokens=64,
        ),
        "mesh": MeshConfig(data=2, fsdp=4),
        "objective": ObjectiveConfig(beta=1e-3),
    }
    return TrainConfig(**(settings | parts))


def plan(given=None, measured_by=measure, devices=8):
    return plan_run(
        given or config(), SHAPE, jax.devices()[:devices], LENGTHS, measured_by
    )


def said(name, peak=0.1):
    """Stands for a compiler: a program of `peak` GiB, one second each."""

    def of(program, chip):
        size = peak(program) if callable(peak) else peak
        seconds = {COMPUTE: 1.0, MEMORY: 0.5, NETWORK: 2.0}
        return Measured(
            name=program.name,
            tokens=program.tokens,
            temporaries=int(size * GIB),
            held=program.held,
            flops=1e9,
            seconds=seconds,
            compile_seconds=1.0,
            compile_cpu_seconds=1.5,
        )

    return of


@pytest.fixture(scope="module")
def planned():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chips, "CHIPS", (CHIP,))
        return plan()


@pytest.mark.parametrize("form", ["free", "constrained"])
def test_learning_of_constrained_turns_takes_a_table_of_supports(form):
    tables = {}

    def by(program, chip):
        if program.name in (programs.SCORE, programs.UPDATE):
            given = program.trace().jaxpr.in_avals
            tables[program.name] = [x.shape for x in given if x.dtype == bool]
        return said(program.name)(program, chip)

    plan(config(agent=dataclasses.replace(config().agent, format=form)), measured_by=by)
    held = [(programs._SUPPORTS, 512)] if form == "constrained" else []
    assert tables == {programs.SCORE: held, programs.UPDATE: held}


def test_all_programs_of_a_step_are_compiled(planned):
    assert [found.name for found in planned.measured] == [
        programs.SCORE,
        programs.UPDATE,
        programs.APPLY,
        programs.PREFILL_TRUNK,
        programs.PREFILL,
        programs.DECODE,
        programs.HAND_OVER,
    ]
    assert planned.fits
    assert [phase.name for phase in planned.phases] == [
        *("hand-over", "prefill", "decode", "old logprobs", "reference", "update"),
        "apply",
    ]
    by_name = {found.name: found for found in planned.measured}
    # Weights are gathered for their use, gradients are not gathered.
    assert by_name["update"].collectives["all-gather"] > 0
    assert by_name["decode"].received == 0
    assert by_name["apply"].flops == 0
    assert 3.5 < by_name["update"].flops / by_name["score"].flops < 4.7


def test_what_stays_beside_a_program(planned):
    """Sharded over 4 or 8 devices, counted by hand."""
    numbers = 256 * (512 + 2 * 256) + 512 * 256 + 3 * 256 * 512
    numbers += (512 + 2 * 256) + 3 * 256 + 512 * 256  # biases, norms, embedding
    held = planned.run.held
    # Biases and norms are whole on each device, under a hundredth.
    assert held["params"] == pytest.approx(4 * numbers / 4, rel=0.02)
    assert held["optimizer"] == pytest.approx(2 * held["params"], rel=0.001)
    assert held["reference"] == held["params"] / 2
    assert held["sampler_params"] == 2 * numbers
    # Keys and values of 2 heads of 128 numbers, bfloat16, in 4 slots of a tail each.
    tail = planned.run.engine.pool_lengths[1]
    assert held["sampler_cache"] == 2 * 2 * 128 * 2 * 4 * tail
    update = next(found for found in planned.measured if found.name == "update")
    own = held["params"]
    assert update.held == sum(held.values()) - own


def test_a_step_adds_up(planned):
    record = planned.record(0.5)
    phases = record["phases"]
    least = sum(phase["roofline_seconds"] for phase in phases)
    assert record["roofline_seconds"] == pytest.approx(least)
    assert record["step_seconds"] == pytest.approx(2 * least)
    assert record["chip_hours_per_step"] == pytest.approx(8 * 2 * least / 3600)
    assert record["chip_hours"] == pytest.approx(10 * record["chip_hours_per_step"])
    # 32 rollouts on 8 engines of 4 slots: one wave, 4 turns of 16 tokens.
    decode = next(phase for phase in phases if phase["name"] == "decode")
    assert decode["calls"] == 4 * 16 // planned.run.engine.decode_block
    json.dumps(record)
    text = "\n".join(describe(record | {"topology": "toy", "gin": []}))
    assert "sampler and learner fit together" in text
    assert "at 50% of them" in text


def test_phases_take_the_longest_of_three(planned):
    found = plan(measured_by=said("any"))
    apply = found.phases[-1]
    assert (apply.calls, apply.roofline_seconds, apply.binds) == (2, 4.0, NETWORK)
    # An update's compute is of the step's tokens, not of the call's.
    update = found.phases[-2]
    assert update.seconds[MEMORY] == 0.5 * update.calls


def test_a_mesh_must_have_all_devices():
    with pytest.raises(InputError, match="needs 8 devices, there are 4"):
        plan(devices=4)
    with pytest.raises(
        InputError, match=r"fsdp 2, .* has 2 devices and the topology 8"
    ):
        plan(config(mesh=MeshConfig(fsdp=2)))


def test_turns_must_fit():
    small = EngineConfig(slots=4, max_length=128, trunks=2)
    with pytest.raises(InputError, match="216 tokens, more than the engine's max_len"):
        plan(config(engine=small))


def test_what_the_compiler_fails_on_is_a_finding():
    """What libtpu said of an all-reduce for which a torus has no routes."""

    class Failing:
        jaxpr = jax.make_jaxpr(lambda x: x @ x)(np.ones((4, 4), np.float32))

        def lower(self):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\n\nno routes")

    def measured_by(program, chip):
        if program.name not in failing:
            return said("any")(program, chip)
        return measure(program._replace(trace=Failing), chip)

    failing = {"update", "decode"}
    found = plan(measured_by=measured_by)
    update = next(f for f in found.measured if f.name == "update")
    assert (update.compiled, update.flops) == (False, 2 * 4**3 / 8)
    assert update.error == "INTERNAL: RET_CHECK failure no routes"
    assert not found.fits
    record = {"topology": "v5e:2x4", "gin": []} | found.record(0.4)
    assert record["programs"][1]["error"] == update.error
    lines = list(describe(record))
    at = lines.index(f"update does not compile: {update.error}")
    assert lines[at + 1].startswith("  on (data 2, fsdp 4, tensor 1); try other sizes")
    at = lines.index(f"decode does not compile: {update.error}")
    assert lines[at + 1].startswith("  on 1 devices; try another sampling.EngineConfig")
    # It is no lack of room: other meshes alone may help.
    tried = [change.lines for change in changes(found, SHAPE)]
    assert tried
    assert all("parallelism.MeshConfig" in each[0] for each in tried)


def test_suggestions_for_a_learner_beside_a_sampler():
    """The sampler's weights and cache are in the way: they are freed."""
    large = EngineConfig(slots=2000, max_length=256, trunks=2, tensor=1)
    compiled = []

    def count(program, chip):
        compiled.append(program.name)
        return said("any", lambda p: 0.8 if p.name == "update" else 0.1)(program, chip)

    before = plan(config(engine=large), count)
    assert [f.name for f in before.measured if not f.fits(CHIP)] == ["update"]
    compiled.clear()
    after, lines = suggest(before, SHAPE, jax.devices(), LENGTHS, measured_by=count)
    assert after.fits
    assert lines == ("sampling.EngineConfig.resident = False",)
    assert "sampler_cache" in after.run.held  # while rollouts run
    assert set(compiled) <= {"prefill trunk", "prefill", "decode"}


def test_suggestions_for_a_learner_alone():
    def peak(program):
        if program.name != "update":
            return 0.1
        learner = program.trace.args[0]
        return 4 * learner.config.rows_per_device / learner.mesh.shape["fsdp"]

    learner = dataclasses.replace(config().learner, remat=False, rows_per_device=2)
    mesh = MeshConfig(data=4, fsdp=2)
    told = []
    before = plan(config(learner=learner, mesh=mesh), said("any", peak))
    after, lines = suggest(
        before, SHAPE, jax.devices(), LENGTHS, told.append, said("any", peak)
    )
    assert after.fits
    assert lines[0] == "rl.LearnerConfig.remat = True"
    assert "rl.LearnerConfig.rows_per_device = 1" in lines
    assert "parallelism.MeshConfig.fsdp = 8" in lines
    assert len(told) >= 4


def test_suggestions_for_a_sampler():
    """Split over more devices first, then smaller."""

    def peak(program):
        if program.name != "decode":
            return 0.1
        engine = next(part for part in program.key if isinstance(part, EngineConfig))
        return engine.slots / program.devices

    before = plan(measured_by=said("any", peak))
    after, lines = suggest(
        before, SHAPE, jax.devices(), LENGTHS, measured_by=said("any", peak)
    )
    assert lines[0] == "sampling.EngineConfig.tensor = 2"
    assert lines[1:] == ("sampling.EngineConfig.slots = 1",)
    assert (after.fits, after.run.tensor, after.run.engine.slots) == (True, 2, 1)


def test_what_the_compiler_cannot_fit_is_a_finding():
    def refused(program, chip):
        text = "RESOURCE_EXHAUSTED: required (113.80G) exceeds available HBM (95.74G)"

        def trace():
            raise jax.errors.JaxRuntimeError(text)

        traced = program.trace()
        stub = type(
            "Traced", (), {"jaxpr": traced.jaxpr, "lower": lambda self: trace()}
        )
        return measure(program._replace(trace=stub), chip)

    found = plan(measured_by=refused)
    assert not found.fits
    record = found.record(0.4)
    assert record["step_seconds"] is None
    assert record["peak_gib"] == pytest.approx(113.8, rel=0.01)
    text = "\n".join(describe(record | {"topology": "toy", "gin": []}))
    assert "update does not fit: 113.80 GiB" in text
    assert "--suggest tries what may help" in text


# -- the command -----------------------------------------------------------------------

MODEL = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
}
FLAGS = {
    "AgentConfig.chunk_size": 64,
    "AgentConfig.question_tokens": 16,
    "AgentConfig.memory_tokens": 16,
    "AgentConfig.completion_tokens": 16,
    "AgentConfig.prompt_tokens": 400,
    "MeshConfig.fsdp": 4,
    "LearnerConfig.row_tokens": 512,
    "LearnerConfig.logits_chunk": 256,
    "LearnerConfig.optimizer_steps_per_batch": 1,
    "ObjectiveConfig.beta": 0.0,
    "EngineConfig.slots": 4,
    "EngineConfig.max_length": 512,
}


def words(model, *more):
    flags = [f"--gin.{name}={value}" for name, value in FLAGS.items()]
    files = ["--gin_file=gin/experiments/paper.gin", f"--model={model}"]
    return ["plan", *files, *flags, "--document_tokens=128", *more]


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MODEL))
    return str(path)


@pytest.fixture
def environment(monkeypatch):
    """What the command sets is unset again."""
    for name in ("JAX_PLATFORMS", *ENVIRONMENT):
        monkeypatch.setenv(name, os.environ.get(name, "cpu"))


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--topology=v9:2x2"], "--topology: 'v9:2x2' is no CHIP:AxB"),
        (["--topology=v5e:2x2", "--model=none"], "'none' is neither one of qwen2.5-0."),
        (
            ["--topology=v5e:2x2", "--completion_tokens=99"],
            "more than the budget of 16",
        ),
        ([], "--topology"),
    ],
)
def test_bad_input_is_a_line(flags, text, model, environment, capsys):
    assert main([*words(model), *flags]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("gru-mem: ")
    assert text in line


def test_without_libtpu_it_says_what_to_install(
    model, environment, capsys, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(words(model, "--topology=v5e:2x2")) == 2
    assert "pip install 'gru_mem_jax[tpu]'" in capsys.readouterr().err


def test_a_policy_must_be_named(environment, capsys):
    flags = ["--gin_file=gin/experiments/paper.gin", "--topology=v5e:2x2"]
    assert main(["plan", *flags]) == 2
    assert "give --model, e.g. qwen2.5-7b" in capsys.readouterr().err


@NEEDS_LIBTPU
def test_a_plan_for_a_slice(model, tmp_path):
    run = [sys.executable, "-m", "gru_mem_jax.cli.main"]
    out = tmp_path / "plan.json"
    done = subprocess.run(
        [*run, *words(model, "--topology=v5e:2x2", f"--json={out}")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["fits"]
    assert (found["chip"], found["devices"], found["hbm_gib"]) == ("v5e", 4, 15.75)
    named = {program["name"]: program for program in found["programs"]}
    assert set(named) == {"update", "apply", "prefill", "decode", "hand-over"}
    for program in named.values():
        assert 0 < program["argument_gib"] <= program["peak_gib"] < 1
        assert program["roofline_seconds"] == max(program["seconds"].values()) > 0
        assert program["binds"] in (COMPUTE, MEMORY, NETWORK)
    assert named["update"]["collectives"]["all-gather"] > 0
    assert named["update"]["flops"] > 0
    assert found["step_seconds"] == pytest.approx(found["roofline_seconds"] / 0.4)
    assert "compiled update" in done.stderr


@NEEDS_LIBTPU
def test_a_slice_that_does_not_exist():
    code = """
from gru_mem_jax.planning.topologies import topology_devices
try:
    topology_devices("v5e:3x5")
except ValueError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | ENVIRONMENT | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.startswith(
        "InputError --topology: there is no v5e:3x5: Topology layout"
    )
    assert done.stdout.count("\n") == 1
    assert "such are v5e:2x4" in done.stdout
