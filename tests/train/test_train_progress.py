"""What a run says of itself: how far a step is, and what is wrong with it."""

import dataclasses
import io
import re
import time

import pytest
from train_settings import changed, of_policy, quick_settings

from gru_mem_jax.rl.rewards import RewardConfig
from gru_mem_jax.runs.metrics import read_metrics
from gru_mem_jax.train import progress
from gru_mem_jax.train.progress import Activity, RunProgress
from gru_mem_jax.train.rollouts import RolloutStage
from gru_mem_jax.train.run import train


def nothing(example, trajectory):
    return 0.0


def test_a_run_of_an_untrained_policy_says_that_it_learns_nothing(make_run):
    """The policy of a fresh start: nothing is well formed, and no group differs."""
    untrained = dataclasses.replace(
        quick_settings(num_steps=4, eval_every=0, save_every=1),
        rewards=RewardConfig(reward_fn=nothing, late_exit=0.0, early_exit=0.0),
    )
    settings = changed(
        untrained,
        rollouts={"dynamic_sampling": False},
        rewards={"exact_exit": 0.0},
    )
    run = make_run()
    run(settings)
    rows = run.rows()
    assert [row["groups/flat"] for row in rows] == [2] * 4
    assert [row["well_formed_turns"] for row in rows] == [0] * 4
    log = [line.split(" ", 1)[1] for line in run.log().splitlines()]
    warned = [line for line in log if "warning: " in line]
    assert [re.sub(r"[,;:(].*", "", w.split(": ", 2)[2]) for w in warned[:-1]] == [
        "no turn is well formed",
        "a quarter of the completions or more are cut at the token limit ",
        "all groups are flat",
    ]
    assert [w.split(": ")[1] for w in warned[:-1]] == ["step 1", "step 2", "step 3"]
    assert "begin from gru-mem sft" in warned[2]
    assert warned[3].startswith("warning: at the end: no turn is well formed, so that")
    assert "; all groups are flat: " in warned[3]
    assert log.index(warned[3]) == len(log) - 2
    assert log[-1].startswith("finished at step 4")
    # What holds at the end is told again where nothing is left to do, and not anew.
    run(settings)
    assert run.log().count("warning: step ") == 3
    assert run.log().count("warning: at the end: ") == 2


def test_a_resumed_run_goes_on_with_its_warnings(make_run):
    """Stopped after two of three flat steps: the third says it."""
    settings = dataclasses.replace(
        quick_settings("memagent", num_steps=2, eval_every=0, save_every=1),
        rewards=RewardConfig(reward_fn=nothing),
    )
    run = make_run()
    run(settings)
    assert "all groups are flat" not in run.log()
    run(changed(settings, loop={"num_steps": 4}))
    assert run.log().count("all groups are flat") == 2  # and at the end
    assert "step 3: all groups are flat" in run.log()


def test_a_slow_step_says_how_far_it_is(make_run, policy_dir, monkeypatch, capsys):
    """In a pipe: a line for every so many seconds in which there was none."""
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.2)
    sample = RolloutStage.sample

    def slow(self, step, position, params, on_turn, counts):
        def pausing():
            time.sleep(0.03)
            on_turn()

        return sample(self, step, position, params, pausing, counts)

    monkeypatch.setattr(RolloutStage, "sample", slow)
    run = make_run()
    run(quick_settings(num_steps=1, eval_every=1), quiet=False)
    lines = capsys.readouterr().err.splitlines()
    found = [re.sub(r"\d+", "N", line) for line in lines]
    assert "step N: sampling, N of N rollouts ended, N turns, N s" in found
    ended = [re.match(r"step 1: sampling, (\d) of 8 rollouts", x) for x in lines]
    counts = [int(each.group(1)) for each in ended if each]
    assert counts == sorted(counts)
    # Shown only: the log has none of it, and the row is that of any other run.
    assert "sampling" not in run.log()
    (row,) = [r for r in read_metrics(run.path / "metrics.jsonl") if r["step"] == 1]
    assert row["tokens/sampled"] > 0


def test_what_an_activity_says():
    activity = Activity()
    assert activity.line() == "starting, 0 s"
    activity.begin(3)
    done = []
    activity.doing("update", lambda: f"micro-batch {len(done) + 1} of 12")
    done += [1, 2]
    assert activity.line() == "step 3: update, micro-batch 3 of 12, 0 s"
    activity.compiling("accumulate")
    line = "step 3: update, micro-batch 3 of 12, compiling the update, 0 s"
    assert activity.line() == line
    activity.compiled("accumulate", 1.0, False)
    activity.compiling("prefill")
    assert "compiling prefill" in activity.line()
    activity.compiled("prefill", 1.0, True)
    activity.doing("saving")
    assert activity.line() == "step 3: saving, 0 s"


def test_quick_steps_are_lines_alone_and_a_slow_one_has_more(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.8)
    with RunProgress(5) as show:
        show.activity.doing("update")
        for step in range(20):
            show.row(step, {"loss": 0.5})
            time.sleep(0.06)
        show.activity.begin(21)
        time.sleep(1.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:20] == [f"step {n}/5: loss 0.5000" for n in range(20)]
    assert {re.sub(r"\d+ s", "N s", line) for line in lines[20:]} == {
        "step 21: update, N s"
    }


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_it_under_the_table(monkeypatch):
    monkeypatch.setattr(progress, "_REFRESH_SECONDS", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)

    def wait_for(text):
        for _ in range(500):
            if text in screen.getvalue():
                return
            time.sleep(0.01)
        pytest.fail(f"{text!r} was not shown")

    with RunProgress(5) as show:
        show.activity.doing("reading the policy")
        wait_for("reading the policy, 0 s")
        show.activity.begin(1)
        show.row(1, {"loss": 0.5})
        show.activity.doing("saving")
        wait_for("step 1: saving, 0 s")
        show.activity.doing("failing", lambda: 1 / 0)  # is not shown, and ends nothing
        time.sleep(0.05)
    shown = screen.getvalue()
    assert "step 1 of 5" in shown
    assert shown.rindex("0.5000") > shown.rindex("saving")  # the table alone is left


def test_a_quiet_run_shows_nothing(make_run, policy_dir, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.01)
    run = make_run()
    train(
        of_policy(quick_settings(num_steps=1, eval_every=0), policy_dir),
        run.path,
        quiet=True,
    )
    assert capsys.readouterr().err == ""
