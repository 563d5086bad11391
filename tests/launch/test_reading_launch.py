"""launch/reading.sh: its stages with a fake gru-mem, and its tables."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from launch_scripts import LAUNCH, ROOT, launch, program

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.cli import sft, train
from gru_mem_jax.cli.gin_config import GinConfig
from gru_mem_jax.evaluation.records import Manifest, ScoredAnswer
from gru_mem_jax.evaluation.statistics import interval, paired
from gru_mem_jax.records import to_record
from gru_mem_jax.tiny.start import tiny_agent
from gru_mem_jax.tiny.structured import MATCHES

HELPER = LAUNCH / "reading.py"
GRU_MEM = pathlib.Path(sys.executable).parent / "gru-mem"
FAKE = r"""#!/bin/bash
printf '%s\n' "$*" >>"$CALLS"
if [ -n "$FAILS" ] && [[ "$*" == *"$FAILS"* ]]; then exit 1; fi
while [ $# -gt 0 ]; do
  case "$1" in
    --out | --run_dir) folder="$2" ;;
    --json) echo "$FIGURES" >"$2" ;;
    --gin.NUM_STEPS=*) step="${1#*=}" ;;
  esac
  shift
done
[ -z "$folder" ] || mkdir -p "$folder"
[ -z "$step" ] || echo "{\"step\": ${STOPS:-$step}}" >>"$folder/metrics.jsonl"
"""
FIGURES = {"prefill_tokens_per_s": 11_000.0, "decode_tokens_per_s": 1000.0}


@pytest.fixture
def made(tmp_path):
    """What launch/quickstart.sh leaves."""
    folder = tmp_path / "quick start"
    for name in ("policy", "warm_start"):
        (folder / name).mkdir(parents=True)
    return folder


@pytest.fixture
def fake(made, tmp_path):
    """Runs the script with a fake gru-mem; gives what it printed and the calls."""
    tools = tmp_path / "tools"
    tools.mkdir()
    program(tools, "gru-mem", FAKE)
    program(tools, "python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    calls, out = tmp_path / "calls", tmp_path / "out of mine"

    def start(*more, **env):
        calls.write_text("")
        env |= {"GRU_MEM": str(tools / "gru-mem"), "CALLS": str(calls)}
        env |= {"FIGURES": json.dumps(FIGURES), "PYTHONPATH": str(ROOT)}
        words = ["--quickstart", str(made), "--out", str(out), *more]
        done = launch("reading.sh", *words, env=env, check=False)
        return done, calls.read_text().splitlines()

    return start, out


def test_runs_of_both_modes_begin_with_the_same_and_are_asked_the_same(fake, made):
    start, out = fake
    done, calls = start("--seeds", "2", "--", "--gin.SAVE_EVERY=4")
    assert done.returncode == 0, done.stderr
    runs = [call for call in calls if call.startswith("train ")]
    assert [call.split("--run_dir ")[1] for call in runs] == [
        *("runs/with_exit_gate_0", "runs/parallel_0"),
        *("runs/with_exit_gate_1", "runs/parallel_1"),
    ]
    for number, call in enumerate(runs):
        assert f"--gin.POLICY='{made / 'warm_start'}'" in call
        assert f"--gin.SEED={number // 2} " in call
        assert "--gin.NUM_STEPS=24" in call
        assert "--gin.SAVE_EVERY=4" in call
        assert "--gin.REVERSED=0 " in call
    asked = [call for call in calls if call.startswith("eval ")]
    assert [call.split()[-1].split("/")[1] for call in asked] == [
        *("one", "tasks_start", "bridge_start"),
        *("tasks_with_exit_gate", "bridge_with_exit_gate"),
        *("tasks_parallel", "bridge_parallel"),
    ]
    one, *others = asked
    assert "--contexts uniform:64,uniform:128 --slots 32 --num_questions 64" in one
    assert "--time_alone 8" in one
    mine, theirs = (
        [call.replace(mode, "M") for call in others if f"_{mode} " in f"{call} "]
        for mode in ("with_exit_gate", "parallel")
    )
    assert len(mine) == len(theirs) == 2
    for bridge in (call for call in others if "--suite bridge" in call):
        assert "--gaps 0,8,32,128 --lengths 136" in bridge
    policies = "--policy policies/parallel_0 --policy policies/parallel_1"
    assert policies in asked[-1]
    assert (out / "tables.md").exists()


def test_what_is_trained_is_not_trained_again(fake):
    start, _ = fake
    stopped, _ = start("--seeds", "1", "--parts", "training", STOPS="7")
    assert stopped.returncode == 130
    assert "the same command goes on" in stopped.stderr
    failed, calls = start("--seeds", "1", "--parts", "training", FAILS="tasks_parallel")
    assert failed.returncode == 1
    assert [call.split()[0] for call in calls] == [
        *("train", "export") * 2,
        *("eval",) * 3,
    ]
    # Evaluations go on with what they have.
    whole, calls = start("--seeds", "1", "--parts", "training")
    assert whole.returncode == 0, whole.stderr
    assert [call.split()[0] for call in calls] == ["eval"] * 3
    other, calls = start("--seeds", "1", "--parts", "training", "--steps", "30")
    assert other.returncode == 2
    assert not calls
    assert "results of other settings; give another --out" in other.stderr


def test_each_seed_has_a_start_that_knows_chains(fake):
    start, out = fake
    words = ["--chains", "--reversed", "0.5", "--seeds", "2", "--parts", "bridge"]
    done, calls = start(*words)
    assert done.returncode == 0, done.stderr
    assert "starts " in done.stderr  # their minutes
    taught = [call for call in calls if call.startswith("sft ")]
    assert len(taught) == 2
    for seed, call in enumerate(taught):
        assert "gin/runs/chains.gin" in call
        assert f"--gin.SEED={seed} " in call
        assert "POLICY" not in call
    runs = [call for call in calls if call.startswith("train ")]
    for seed, call in enumerate(runs):
        assert f"--gin.POLICY='{out}/policies/start_{seed // 2}'" in call
        assert f"--gin.REVERSED={0.5 if seed % 2 else 0} " in call
    asked = [call for call in calls if call.startswith("eval ")]
    assert [call.split("evaluation/")[1] for call in asked] == [
        *("bridge_start", "bridge_with_exit_gate", "bridge_parallel"),
    ]
    policies = " ".join(f"--policy {out}/policies/start_{seed}" for seed in (0, 1))
    assert asked[0].startswith(f"eval {policies} ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "one,two"], "--parts has one, training and bridge, not two"),
        (["--modes", "memagent"], "not memagent"),
        (["--steps", "0"], "--steps is a whole number from 1"),
        (["--reversed", "2"], "--reversed is a share"),
        (["--quickstart", "/nowhere"], "there is no /nowhere/policy"),
        (["--", "--num_steps=3"], "after -- come settings"),
    ],
)
def test_bad_flags_are_refused(fake, words, message):
    done, calls = fake[0](*words)
    assert done.returncode == 2
    assert not calls
    assert message in done.stderr


def test_the_minutes_are_told_before_anything_is_asked(fake):
    done, calls = fake[0]("--estimate")
    assert done.returncode == 0, done.stderr
    assert [call.split()[0] for call in calls] == ["bench"]
    lines = [line for line in done.stderr.splitlines() if "estimated" in line]
    told = {line[:28].strip(): float(line.split()[-3]) for line in lines}
    # Five tasks of 64 questions to 64 + 128 chunks; 8 of them alone, five times slower.
    each = [(1.0, 22), (1.0, 14), (0.7, 15), (2.1, 14), (1.8, 14)]
    company = sum(t * (0.01 + n / 1000) for t, n in each)
    alone = sum(t * (0.01 + 5 * n / 1000) for t, n in each[:4])
    alone += 1.8 * (0.01 + 1.2 * 14 / 1000)
    seconds = 5 * 192 * (64 * company + 8 * alone)
    assert told["one"] == pytest.approx(seconds / 60, abs=0.06)
    # By hand: a turn without exit gate 110 / 11000 + 14 / 1000 s, with one 1 ms more.
    step = 0.7 * 8 * 0.025 * 64
    runs = 2.2 * 3 * 24 * step / 60
    assert told["runs of with_exit_gate"] == pytest.approx(runs, abs=0.06)
    bridge = 32 * 4 * 136 * (1 + 2.1 + 1.8) * 0.024 / 60
    assert told["bridge of start"] == pytest.approx(bridge, abs=0.06)
    assert told["bridge of parallel"] == pytest.approx(3 * bridge, abs=0.06)
    parts = sum(minutes for name, minutes in told.items() if name != "all")
    assert told["all"] == pytest.approx(parts, abs=0.6)


def write_answers(folder, policies, modes, sets, score):
    """An evaluation in a folder, of scores by a function."""
    folder.mkdir(parents=True)
    manifest = Manifest(title="x", policies=dict.fromkeys(policies, "y"), modes=modes)
    (folder / "evaluation.json").write_text(json.dumps(to_record(manifest)))
    (folder / "questions.jsonl").write_text("")
    answers = [
        ScoredAnswer(
            policy=policy,
            mode=mode,
            set=name,
            labels=labels,
            index=index,
            id=f"{index}",
            score=score(policy, mode, labels, index),
            seconds=1.0,
            seconds_alone=(0.1 if mode == "parallel" else 0.4) if index < 2 else None,
            steps_alone=(30 if mode == "parallel" else 600) if index < 2 else None,
        )
        for name, labels in sets
        for policy in policies
        for mode in modes
        for index in range(8)
    ]
    lines = "".join(json.dumps(to_record(answer)) + "\n" for answer in answers)
    (folder / "answers.jsonl").write_text(lines)


def rows_of(text):
    cells = [line.strip("|").split(" | ") for line in text.splitlines() if "|" in line]
    return [[cell.strip() for cell in line] for line in cells]


@pytest.fixture(scope="module")
def helper():
    spec = importlib.util.spec_from_file_location("reading_helper", HELPER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_by_hand(helper, tmp_path):
    evaluation = tmp_path / "evaluation"
    labels = {"placement": "uniform", "num_chunks": 64}
    write_answers(
        evaluation / "one",
        ["policy"],
        ("without_exit_gate", "parallel"),
        [("chain", labels)],
        lambda policy, mode, labels, index: float(mode == "parallel" or index < 4),
    )
    bridge = [("chain", {"gap": gap, "num_chunks": 136}) for gap in (0, 8)]
    for arm, right in (("start", 2), ("with_exit_gate", 4), ("parallel", 8)):
        seeds = ["start"] if arm == "start" else [f"{arm}_0", f"{arm}_1"]
        write_answers(
            evaluation / f"bridge_{arm}",
            seeds,
            ("reread",),
            bridge,
            lambda policy, mode, labels, index, right=right: float(
                index < right - 2 * policy.endswith("1")
            ),
        )
    text = helper.tables(tmp_path)
    one, gain, bridged = text.split("\n\n")[1], text.split("\n\n")[3], rows_of(text)
    low, high = (f"{100 * end:.0f}" for end in interval([1.0] * 4 + [0.0] * 4))
    assert rows_of(one)[2] == [
        *("64", "chain"),
        f"50 ({low}–{high}), 400 ms, 600 steps",
        "100 (100–100), 100 ms, 30 steps",
    ]
    found = paired([1.0] * 8, [1.0] * 4 + [0.0] * 4)
    change = f"+50.0 ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    # with_exit_gate was not asked.
    assert rows_of(gain)[2] == ["64", "chain", "4.0", "20.0", change, "–", "–", "–"]
    last = bridged[-1]
    assert last[:3] == ["8", "chain", "reread"]
    assert last[3].startswith("25 (")
    # 4 and 2 of 8 right; then 8 and 6.
    assert last[4].startswith("38 (")
    assert last[4].endswith(": 50 25")
    assert last[5].startswith("88 (")
    assert last[5].endswith(": 100 75")
    assert last[6].startswith("+50.0 (")
    assert bridged[-4][-1] == "points of parallel over with_exit_gate"


def test_nothing_evaluated_is_no_table(helper, tmp_path):
    assert helper.tables(tmp_path) == ""


def test_gin_files_of_the_runs():
    """Both modes learn from the same questions, in the same way."""

    def built(*bindings):
        bindings = ("POLICY = 'x'", *bindings)
        file = "gin/experiments/reading.gin"
        gin = GinConfig(train.configurables(), [file], bindings)
        made = train.settings_from(gin, tiny_agent())
        gin.check_all_read()
        return made

    parallel, sequential = built(), built("MODE = 'with_exit_gate'")
    assert (parallel.agent.mode, sequential.agent.mode) == (
        "parallel",
        "with_exit_gate",
    )
    assert parallel.source == sequential.source
    assert parallel.learner == sequential.learner
    assert parallel.loop.num_steps == 24
    assert built("REVERSED = 0.5").source.config.reversed_chains == 0.5
    gin = GinConfig(sft.configurables(), ["gin/runs/chains.gin"], [])
    taught = sft.settings_from(gin, AgentConfig())
    gin.check_all_read()
    assert taught.turns.scans == taught.source.config.reversed_chains == 0.4
    assert taught.turns.wrong_updates == 0
    # The wiring of the other heads is repeated there.
    assert taught.start.structure.matches[:-1] == MATCHES
    assert taught.start.structure.matches[-1] == ((0, 3), (1, 4))


@pytest.mark.slow
def test_all_stages_with_an_untrained_policy(tmp_path):
    from gru_mem_jax.tiny.start import TinyModel

    folder = tmp_path / "quickstart"
    for name in ("policy", "warm_start"):
        TinyModel(intermediate_size=64).write(folder / name, seed=0)
    environment = {
        **{name: v for name, v in os.environ.items() if name != "XLA_FLAGS"},
        "GRU_MEM": str(GRU_MEM),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "GRU_MEM_CACHE_DIR": str(tmp_path / "programs"),
    }
    words = ["--quickstart", folder, "--out", tmp_path / "out", "--quick", "--chains"]

    def start():
        done = subprocess.run(
            ["bash", LAUNCH / "reading.sh", *words, "--seeds", "1"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    first = start()
    trained = r"parallel_0: \d+ min"
    assert re.search(trained, first.stderr)
    heads = rows_of(first.stdout)
    assert ["chunks", "task", *("memagent", "without_exit_gate")] == heads[0][:4]
    again = start()
    assert not re.search(trained, again.stderr)
    tables = (tmp_path / "out/tables.md").read_text()
    assert first.stdout.endswith(tables)  # after what the runs print
    assert again.stdout == tables
