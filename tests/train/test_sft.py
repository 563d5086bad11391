"""Supervised runs: they learn, resume bit for bit, and leave a usable policy."""

import dataclasses
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Run
from train_settings import AGENT, changed, of_policy, quick_settings, quick_sft

from gru_mem_jax.agent.config import config_from_json
from gru_mem_jax.data.evidence_turns import EvidenceTurns
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.rl.lora import LoraConfig
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.runs import columns
from gru_mem_jax.runs.checkpoints.manager import Checkpoints
from gru_mem_jax.runs.export import export_run
from gru_mem_jax.runs.signals import StopSignal
from gru_mem_jax.tiny.start import structured_adamw
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate
from gru_mem_jax.tokenization import TextTokenizer
from gru_mem_jax.train import sft
from gru_mem_jax.train.config import SFTConfig
from gru_mem_jax.train.data_check import make_judge
from gru_mem_jax.train.plan import open_start, plan
from gru_mem_jax.train.questions import QuestionStage
from gru_mem_jax.train.sft import SFTStep, TurnStream

LABELLED = dataclasses.replace(
    AGENT, chunk_size=64, memory_tokens=96, completion_tokens=128, prompt_tokens=256
)


class SFTRun(Run):
    """Starts supervised runs of one folder, and reads what they leave."""

    def __init__(self, path):
        super().__init__(None, path)

    def __call__(self, settings=None, **options):
        return sft(settings or quick_sft(), self.path, **{"quiet": True, **options})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = SFTRun(tmp_path_factory.mktemp("sft") / "run")
    result = run()
    assert (result.finished, result.step, result.skipped) == (True, 6, 0)
    return run


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "policy"
    assert export_run(finished.path, out) == 6
    return out


def test_the_loss_falls(tmp_path):
    run = SFTRun(tmp_path / "run")
    run(quick_sft(num_steps=30, eval_every=0, save_every=30))
    losses = [row["loss"] for row in run.rows()]
    assert len(losses) == 30
    assert losses[0] > 4.5  # by chance log 1917 = 7.6; the start copies a little
    assert np.mean(losses[-5:]) < losses[0] - 1


def test_rows_have_declared_columns(finished):
    rows = finished.rows(times=True)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    looked = [row["step"] for row in rows if "exact/gated" in row]
    assert looked == [0, 3, 6]
    names = {name for row in rows for name in row}
    assert {"exact/memagent", "exact/answer", "exact/gated/with_evidence"} <= names
    gates = {
        f"gates/{gate}_{measure}"
        for gate in ("update", "exit", "unaided_update")
        for measure in ("auc", "balanced_accuracy")
    }
    for row in rows[::3]:
        assert {name for name in row if name.startswith("gates/")} == gates
        assert all(0 <= row[name] <= 1 for name in gates)
    assert [name for name in names if columns.find(name) is None] == []


def test_the_log_tells_the_turns_of_the_first_pool(finished):
    """Of the short chunks' and of the whole ones' first pool, by evidence and exit."""
    told = [line for line in finished.log().splitlines() if "pool of step" in line]
    assert len(told) == 2
    for line, step in zip(told, (1, 3), strict=True):
        assert f"pool of step {step}: " in line
        for name in ("with evidence, end", "without evidence, continue"):
            assert f"gated, {name}: " in line


def test_the_best_gates_are_kept(tmp_path):
    """Beside the newest checkpoint."""
    best = "gates/unaided_update_auc"
    every = {"num_steps": 3, "eval_every": 1, "save_every": 1, "keep": 1}
    run = SFTRun(tmp_path / "run")
    run(quick_sft(best_metric=best, **every))
    saved = [row[best] for row in run.rows()[1:]]
    kept = {int(p.name) for p in run.path.glob("checkpoints/*") if p.name.isdigit()}
    assert 3 in kept
    assert any(
        {3, step} == kept for step in range(1, 4) if saved[step - 1] == max(saved)
    )


def test_the_card_says_how_it_was_trained(exported):
    card = (exported / "README.md").read_text()
    assert "Trained on supervised turns with gru_mem_jax for 6 steps" in card
    table = [line for line in card.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["0", "3", "6"]
    assert card.count("share of held-out turns of a kind") == 1


def test_what_is_exported_is_the_policy(finished, exported):
    policy, params = load_policy(exported)
    assert policy.config.family == "qwen2"
    abstract = make_policy(policy.config).abstract_params()
    with Checkpoints(finished.path / "checkpoints", create=False) as checkpoints:
        restored = checkpoints.restore({"params": abstract})["params"]
    jax.tree.map(np.testing.assert_array_equal, restored, params)
    encoder = TextTokenizer.from_pretrained(exported)
    assert encoder.vocab_size == policy.config.vocab_size
    config = config_from_json((exported / "gru_mem.json").read_text())
    assert (config.chunk_size, config.prompt.style) == (64, "compact")
    assert config.sampling.temperature == 0


@pytest.mark.torch
def test_transformers_gives_the_same_logits(exported):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(exported)
    assert type(theirs).__name__ == "Qwen2ForCausalLM"
    policy, params = load_policy(exported)
    tokens = np.random.default_rng(0).integers(0, policy.config.vocab_size, (2, 90))
    positions = np.broadcast_to(np.arange(90, dtype=np.int32), (2, 90))
    ours = policy.apply(params, jnp.asarray(tokens, jnp.int32), jnp.asarray(positions))
    with torch.no_grad():
        logits = theirs(torch.as_tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(np.asarray(ours), logits, atol=1e-4)


@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_stopped_and_resumed_equals_unbroken(tmp_path, monkeypatch, finished, number):
    """In the short steps, at their end, in a pool, and before the last step."""
    run = SFTRun(tmp_path / "run")
    stops = []
    enter, step = StopSignal.__enter__, SFTStep.step

    def entered(signal):
        stops.append(signal)
        return enter(signal)

    def counted(self, at):
        if at.step == number:
            stops[-1].request()
        return step(self, at)

    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "__enter__", entered)
        patch.setattr(SFTStep, "step", counted)
        result = run()
    assert (result.finished, result.step) == (False, number)
    assert "stopped and saved at step" in run.log().splitlines()[-1]
    assert run().finished
    assert run.rows() == finished.rows()
    assert run.saved(6) == finished.saved(6)


def test_a_longer_run_is_the_short_one_continued(tmp_path, finished):
    run = SFTRun(tmp_path / "run")
    run(quick_sft(num_steps=3))
    run(quick_sft(num_steps=6))
    assert run.rows() == finished.rows()
    assert run.saved(6) == finished.saved(6)


def test_damaged_checkpoints_are_passed_over(tmp_path, finished):
    run = SFTRun(tmp_path / "run")
    run(quick_sft(num_steps=4))
    victim = next(run.path.glob("checkpoints/4/params/**/d/*"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    run()
    assert "resumed from step 2" in run.log()
    assert run.saved(6) == finished.saved(6)


def test_other_settings_are_refused_by_name(tmp_path):
    run = SFTRun(tmp_path / "run")
    run(quick_sft(num_steps=1, eval_every=0))
    with pytest.raises(InputError, match=r"SFTConfig.rows: 2 before, 3 now"):
        run(dataclasses.replace(quick_sft(num_steps=2, eval_every=0), rows=3))


def test_a_policy_is_where_the_next_run_begins(exported, tmp_path):
    """Rates are those that are set: none leaves the weights as they are."""
    settings = of_policy(quick_sft(num_steps=2, eval_every=0), exported)
    settings = changed(settings, learner={"learning_rate": 0.0})
    SFTRun(tmp_path / "run")(settings)
    export_run(tmp_path / "run", tmp_path / "out")
    jax.tree.map(
        np.testing.assert_array_equal,
        load_policy(tmp_path / "out")[1],
        load_policy(exported)[1],
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "gru_mem.json"):
        assert (tmp_path / "out" / name).read_bytes() == (exported / name).read_bytes()


def test_what_is_exported_reads_as_its_turns_did(exported, tmp_path):
    """Other budgets alone come along too."""
    own = config_from_json((exported / "gru_mem.json").read_text())
    agent = dataclasses.replace(own, memory_tokens=own.memory_tokens - 1)
    settings = of_policy(quick_sft(num_steps=1, eval_every=0), exported)
    SFTRun(tmp_path / "run")(dataclasses.replace(settings, agent=agent))
    export_run(tmp_path / "run", tmp_path / "out")
    assert config_from_json((tmp_path / "out/gru_mem.json").read_text()) == agent


def test_labelled_examples_lora_mesh_and_bfloat16(exported, tmp_path):
    """Whatever the one stack can do, a supervised run can; it samples to evaluate."""
    examples = tuple(generate(SyntheticConfig(num_chunks=5), i) for i in range(6))
    settings = dataclasses.replace(
        of_policy(quick_sft(num_steps=2, eval_every=2), exported),
        agent=LABELLED,
        source=ListSource(examples=examples),
        turns=EvidenceTurns(),
        short_steps=0,
        held_out=None,
        learner=LearnerConfig(
            learning_rate=1e-3,
            warmup_steps=1,
            row_tokens=512,
            rows_per_device=1,
            compute_dtype="bfloat16",
            lora=LoraConfig(rank=2),
        ),
        mesh=dataclasses.replace(quick_sft().mesh, data=2, fsdp=2),
        engine=dataclasses.replace(quick_settings().engine, max_length=512),
        suite=quick_settings().suite,
    )
    run = SFTRun(tmp_path / "run")
    assert run(settings).finished
    rows = run.rows()
    assert "eval/exact" in rows[-1]
    assert rows[-1]["target_tokens"] > 0
    export_run(run.path, tmp_path / "merged", policy_dir=str(exported))
    before, after = load_policy(exported)[1], load_policy(tmp_path / "merged")[1]
    q = "layers", "attn", "q", "kernel"
    for name in q:
        before, after = before[name], after[name]
    assert np.abs(np.asarray(before) - np.asarray(after)).max() > 0


# What is learned


def stream_of(settings, tmp_path, pool_turns=40):
    settings = dataclasses.replace(settings, pool_turns=pool_turns)
    directory = open_start(settings, tmp_path / "start")
    planned = plan(settings, directory)
    judge = make_judge(settings, planned)
    stages = [
        QuestionStage(source, judge)
        for source in (settings.source, settings.short_source)
    ]
    packing = settings.learner.packing(1)
    return TurnStream(settings, planned.encoder, planned.agent, *stages, packing)


def rows_of(step):
    return [rows.tokens.tolist() for rows in step.micro_batches]


def test_the_stream_begins_anywhere(tmp_path):
    """From the position and the batches taken of any step, the same steps follow."""
    stream = stream_of(quick_sft(), tmp_path)
    steps = list(itertools.islice(stream.steps(0, 0, 0), 14))
    assert len({(s.position, s.taken) for s in steps}) == 14
    assert max(s.taken for s in steps) >= 2
    for done in (1, 2, 3, 7):
        at = steps[done - 1]
        again = list(itertools.islice(stream.steps(done, at.position, at.taken), 3))
        assert [rows_of(s) for s in again] == [
            rows_of(s) for s in steps[done : done + 3]
        ]


def test_every_turn_of_an_example_is_in_one_batch(tmp_path):
    settings = dataclasses.replace(quick_sft(), short_steps=0)
    stream = stream_of(settings, tmp_path)
    steps = list(itertools.islice(stream.steps(0, 0, 0), 30))
    whole = [i for i, s in enumerate(steps) if s.taken == 0]
    end = steps[whole[1]].position
    seen = []
    for step in steps[: whole[1] + 1]:
        for rows in step.micro_batches:
            for tokens, reach, owner in zip(
                rows.tokens, rows.reach, rows.conversation, strict=True
            ):
                for leaf in np.flatnonzero(np.diff(owner, append=-1)):
                    path = np.flatnonzero(reach[: leaf + 1] > leaf)
                    seen.append(tuple(tokens[path].tolist()))
    directory = tmp_path / "start"
    encoder = TextTokenizer.from_pretrained(open_policy_dir(directory).root)
    oracle = settings.turns.oracle(encoder, settings.start.agent)
    wanted = [
        turn.prompt + turn.completion
        for i in range(end)
        for turn in oracle.turns(
            settings.source.example(i), random.Random(f"turns/3/{i}")
        )
    ]
    assert sorted(seen) == sorted(wanted)


def test_a_turn_longer_than_a_row_is_refused():
    settings = changed(quick_sft(), learner={"row_tokens": 60})
    with pytest.raises(InputError, match="more than a row of row_tokens 60; raise it"):
        sft(settings, "nowhere", quiet=True)


def test_embedding_and_final_norm_have_rates_of_their_own():
    params = {
        "ends": {
            "embedding": jnp.ones((5, 16)),
            "final_norm": {"scale": jnp.ones(16)},
        },
        "layers": {"q": {"kernel": jnp.ones((2, 16, 4)), "bias": jnp.ones((2, 4))}},
    }
    optimizer = structured_adamw(0.1, weight_decay=0.0)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    first = jax.tree.map(lambda u: float(u.ravel()[0]), updates)
    # Adam's first step is 1; the width's root is 4.
    assert first["ends"]["embedding"] == pytest.approx(-0.4, rel=1e-4)
    assert first["ends"]["final_norm"]["scale"] == pytest.approx(-0.025, rel=1e-4)
    assert first["layers"]["q"]["kernel"] == pytest.approx(-0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 2.5}, "rows must be an integer at least 1, got 2.5"),
        ({"pool_turns": 0}, "pool_turns must be at least 1"),
        ({"source": 7}, "source must have a method example"),
        ({"held_out": "x"}, "held_out must have a method example"),
        ({"turns": 3}, "turns must have a method oracle"),
        ({"held_out": None}, "eval_every needs a suite or held_out examples"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(quick_sft(), **changes)


@pytest.mark.parametrize("name", ["source", "turns"])
def test_what_must_be_given(name):
    settings = dataclasses.replace(quick_sft(), **{name: None})
    with pytest.raises(InputError, match=f"no {name}: set SFTConfig.{name}"):
        sft(settings, "nowhere", quiet=True)


def test_the_best_metric_is_a_column():
    for name in ("gates/exit_balanced_accuracy", "eval/balanced_update"):
        assert quick_sft(best_metric=name).loop.best_metric == name
    with pytest.raises(
        InputError, match=r"a column of metrics\.jsonl .* got 'gates/a'"
    ):
        quick_sft(best_metric="gates/a")


def test_no_policy_and_no_start():
    with pytest.raises(InputError, match=r"set LoopConfig\.policy"):
        sft(SFTConfig(), "nowhere", quiet=True)


def test_adapters_need_a_policy(tmp_path):
    """The base of a run from scratch is kept nowhere, and could not be merged."""
    settings = changed(quick_sft(), learner={"lora": LoraConfig(rank=2)})
    with pytest.raises(InputError, match="lora trains adapters of a policy"):
        sft(settings, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
