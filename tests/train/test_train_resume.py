"""Runs that are stopped, damaged or changed, against the run that nobody touched.

Faults R4, R9, R12, R13, R14 and R15.
"""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train_settings import changed, make_policy_dir, quick_settings

from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.runs.signals import StopSignal
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.train import evaluate, loop, rl
from gru_mem_jax.train import run as run_module
from gru_mem_jax.train.engine import HeldEngine

OVERLAP = quick_settings(overlap=True, eval_every=3)


def assert_same(run, other, step=5):
    assert run.rows() == other.rows()
    assert run.saved(step) == other.saved(step)


class StopAt:
    """Asks to stop at the n-th call of something, as SIGTERM would."""

    def __init__(self, monkeypatch):
        self._monkeypatch, self._stop = monkeypatch, None
        enter = StopSignal.__enter__

        def entered(signal):
            self._stop = signal
            return enter(signal)

        monkeypatch.setattr(StopSignal, "__enter__", entered)

    def call(self, owner, name, number):
        original, count = getattr(owner, name), [0]

        @functools.wraps(original)
        def counted(*args, **kwargs):
            count[0] += 1
            if count[0] == number:
                self._stop.request()
            return original(*args, **kwargs)

        self._monkeypatch.setattr(owner, name, counted)


# What is called where, and how often before the stop.
PLACES = {
    "before_step_1": ("evaluation_columns", evaluate, 1, 0),
    "sampling": ("step_until", Engine, 8, 1),
    "scoring": ("learnable", rl, 2, 1),
    "updating": ("host_count", loop, 3, 1),
    "last_part_of_an_update": ("host_count", loop, 4, 2),
    "evaluating": ("evaluation_columns", evaluate, 2, 2),
    "evaluating_for_the_last_time": ("evaluation_columns", evaluate, 3, 4),
}


@pytest.mark.parametrize("place", PLACES)
def test_stopped_and_continued_equals_unbroken(make_run, unbroken, monkeypatch, place):
    """The evaluation that a stop cut short is made up for: its row has it."""
    name, owner, number, step = PLACES[place]
    run = make_run()
    with monkeypatch.context() as patch:
        StopAt(patch).call(owner, name, number)
        result = run(command=("gru-mem", "train", "--run_dir=a b"))
    assert not result.finished
    assert result.step == step
    last = run.log().splitlines()[-1]
    assert f"stopped and saved at step {step} of 5" in last
    assert last.endswith("resume with: gru-mem train '--run_dir=a b'")
    result = run()
    assert result.finished
    assert_same(run, unbroken(quick_settings()))


@pytest.mark.parametrize("number", [3, 8, 14])
def test_overlap_is_bit_equal_too(make_run, unbroken, monkeypatch, number):
    """The weights of the rollouts in flight are saved beside the new ones."""
    run = make_run()
    with monkeypatch.context() as patch:
        StopAt(patch).call(Engine, "step_until", number)
        assert not run(OVERLAP).finished
    run(OVERLAP)
    other = unbroken(OVERLAP)
    assert_same(run, other)
    assert any(name.startswith("behaviour.") for name in run.saved(5))


def test_overlap_is_one_step_off_policy(unbroken):
    """Step 2 is sampled before update 1: with the first weights, as step 1 is."""
    plain, overlapped = (
        unbroken(quick_settings(eval_every=0)),
        unbroken(changed(OVERLAP, loop={"eval_every": 0})),
    )
    one, two, *_ = overlapped.rows()
    assert one == plain.rows()[0]
    assert two != plain.rows()[1]
    for row in overlapped.rows():  # compared under the weights that sampled
        assert row["largest_logprob_gap"] < 1e-4
    assert two["ratio"] != pytest.approx(1, abs=1e-7)


def test_a_longer_run_is_the_short_one_continued(make_run, unbroken):
    run = make_run()
    run(quick_settings(num_steps=3))
    result = run(quick_settings(num_steps=3))
    assert (result.step, result.finished) == (3, True)
    assert "finished at step 3" in run.log().splitlines()[-1]
    run(quick_settings(num_steps=5))
    assert_same(run, unbroken(quick_settings()))


def test_replayed_rollouts_give_the_same_numbers(make_run, unbroken):
    run, replayed = make_run("recorded"), make_run("replayed")
    run(quick_settings(record=True))
    assert_same(run, unbroken(quick_settings()))
    replayed(replay=str(run.path / "rollouts"))
    assert_same(replayed, run)
    assert not list((replayed.path / "rollouts").glob("*"))


def test_replay_needs_every_step(make_run, tmp_path):
    run = make_run()
    with pytest.raises(InputError, match=r"no rollouts of step 1 to replay"):
        run(quick_settings(eval_every=0), replay=str(tmp_path))


def test_damaged_checkpoints_are_passed_over(make_run, unbroken):
    run = make_run()
    run(quick_settings(num_steps=4))
    victim = next(run.path.glob("checkpoints/4/params/**/d/*"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    run()
    assert "skipped and left in place" in run.log()
    assert "resumed from step 2" in run.log()
    assert_same(run, unbroken(quick_settings()))
    assert (run.path / "checkpoints" / "4.damaged").is_dir()


def test_a_moved_folder_goes_on(make_run, unbroken, tmp_path):
    run = make_run()
    run(quick_settings(num_steps=2))
    shutil.move(run.path, tmp_path / "elsewhere")
    run.path = tmp_path / "elsewhere"
    run()
    assert_same(run, unbroken(quick_settings()))


# Refusals


@pytest.fixture(scope="module")
def begun(policy_dir, unbroken):
    return unbroken(quick_settings(num_steps=1, eval_every=0))


def refused(begun, make_run, settings, says, **options):
    run = make_run()
    shutil.copytree(begun.path, run.path)
    before = run.saved(1)
    with pytest.raises(InputError, match=says):
        run(settings, **options)
    assert run.saved(1) == before
    return run


def test_changed_settings_are_refused_by_name(begun, make_run):
    settings = quick_settings(num_steps=2, eval_every=0)
    other = changed(settings, advantages={"alpha": 0.5})
    says = r"AdvantageConfig.alpha: 0.9 before, 0.5 now"
    run = refused(begun, make_run, other, says)
    result = run(other, resume_with_changes=True)
    assert result.step == 2
    assert "changed setting: AdvantageConfig.alpha" in run.log()


def test_another_policy_is_refused(begun, make_run, tmp_path):
    """Also one of the same shape: it would be another KL reference."""
    settings = quick_settings(num_steps=2, eval_every=0)
    other = make_policy_dir(tmp_path, seed=1)
    says = "was saved by another run: weights_sha256"
    refused(begun, make_run, settings, says, policy_dir=other)


def test_another_tokenizer_is_refused(begun, make_run, policy_dir, tmp_path):
    settings = quick_settings(num_steps=2, eval_every=0)
    other = tmp_path / "policy"
    shutil.copytree(policy_dir, other)
    path = other / "tokenizer.json"
    path.write_text(path.read_text().replace('"id"', ' "id"', 1))
    says = "another tokenizer: tokenizer.json differs"
    refused(begun, make_run, settings, says, policy_dir=other)


@pytest.mark.parametrize(
    "name",
    [
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.json",
        "additional_chat_templates/default.jinja",
    ],
)
def test_another_file_that_decides_the_tokenizer_is_refused(
    begun, make_run, policy_dir, tmp_path, name
):
    settings = quick_settings(num_steps=2, eval_every=0)
    other = tmp_path / "policy"
    shutil.copytree(policy_dir, other)
    (other / name).parent.mkdir(exist_ok=True)
    config = json.loads((other / "tokenizer_config.json").read_text())
    text = config["chat_template"] if name.endswith(".jinja") else "{}"
    (other / name).write_text(text)
    says = f"another tokenizer: {name} differs"
    refused(begun, make_run, settings, says, policy_dir=other)


# Faults in a run


@pytest.mark.parametrize("steps", [1, 2])
def test_a_sampler_with_stale_weights_stops_the_run(make_run, monkeypatch, steps):
    """Before the update, whether the learner's logprobs have a pass of their own."""
    run = make_run()
    settings = changed(
        quick_settings(save_every=1, eval_every=0),
        learner={"optimizer_steps_per_batch": steps},
    )
    monkeypatch.setattr(HeldEngine, "place", _the_first(HeldEngine.place))
    with pytest.raises(RunError, match=r"step 2: .* above logprob_gap_limit 0.0001"):
        run(settings)
    assert [row["step"] for row in run.rows()] == [1]
    assert run.saved(1)


def _the_first(place):
    """Hands over the first weights each time."""
    kept = []

    def forgetful(held, params):
        if not kept:
            kept.append(jax.tree.map(jnp.copy, params))
        return place(held, kept[0])

    return forgetful


def nan_after_two(learning_rate):
    """SGD whose third update and all later ones are not numbers."""
    del learning_rate

    def update(updates, count, params=None):
        del params
        factor = jnp.where(count < 2, -0.1, jnp.nan)
        return jax.tree.map(lambda g: factor * g, updates), count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def test_steps_that_are_not_finite_end_the_run_after_some(make_run):
    """Each step has two optimiser steps: step 1 is good, then all are skipped."""
    run = make_run()
    settings = changed(
        quick_settings(num_steps=9, eval_every=0, save_every=1, max_skipped=4),
        learner={"optimizer": nan_after_two},
    )
    with pytest.raises(RunError, match=r"step 3: 4 optimiser steps in a row"):
        run(settings)
    rows = run.rows()
    assert [row["skipped_steps"] for row in rows] == [0, 2]
    assert [row["skipped"] for row in rows] == [0, 2]
    assert "grad_norm" not in rows[1]  # of no step that was taken
    saved = run.saved(2)
    assert saved["params.ends.embedding"] == run.saved(1)["params.ends.embedding"]
    assert np.frombuffer(saved["counters.skipped"], np.int32) == 2


def test_out_of_memory_is_told_with_the_estimate(make_run, monkeypatch):
    def exhausted(part):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 8 GiB")

    run = make_run()
    monkeypatch.setattr(loop, "host_count", exhausted)
    with pytest.raises(RunError, match=r"out of memory \(by formula, total .*row_tok"):
        run(quick_settings(eval_every=0))
    assert run.rows() == []


def test_without_a_kl_the_first_weights_are_read_once(make_run, monkeypatch):
    """No reference is held in memory where beta is 0."""
    settings = changed(quick_settings(num_steps=1, eval_every=0), objective={"beta": 0})
    run = make_run()
    run(settings)
    assert "kl" not in run.rows()[0]

    def nothing(*args, **kwargs):
        raise AssertionError("the policy's weights were read again")

    monkeypatch.setattr(run_module, "load_policy", nothing)
    run(changed(settings, loop={"num_steps": 2}))
    assert [row["step"] for row in run.rows()] == [1, 2]
