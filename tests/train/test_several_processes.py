"""Runs of two processes: equal to one; faults R23, R24, R25, R26 and R27.

What differs from one process: how rows are filled ("rows/padding"), as each packs its
own, and which prefixes an engine finds again ("tokens/shared").
"""

import json
import pathlib
import sys

import pytest
from train_settings import changed, quick_settings, quick_sft

from gru_mem_jax.runs.columns import is_time
from gru_mem_jax.testing.processes import host_flags, running
from gru_mem_jax.train import sft

SCRIPT = pathlib.Path(__file__).with_name("several_train.py")
OF_PROCESSES = ("rows/padding", "tokens/shared")
# float32 rounding, from one sum over tokens to another order of it: the loss itself is
# a difference of numbers about 1.
ROUNDING = {"rel": 2e-5, "abs": 2e-7}
STEP = {"num_steps": 2, "questions_per_step": 4, "group_size": 2, "eval_every": 0}
# With this seed a group of the first step is flat: a round of one question replaces it,
# which leaves a process idle.
STEP |= {"max_refills": 2, "seed": 6}
RUN = STEP | {"num_steps": 4, "eval_every": 2, "save_every": 1, "sample_every": 1}
PARTS = {"mesh": {"fsdp": 2}, "learner": {"rows_per_device": 2}}
QUICK = {"learner": {"rows_per_device": 2, "optimizer_steps_per_batch": 1}}
QUICK |= {"mesh": {"fsdp": 2}, "objective": {"beta": 0.0}}


@pytest.fixture
def start(policy_dir, compiled_programs, tmp_path):
    """Runs `several_train.py` in some processes; how they ended."""
    starts = iter(range(100))

    def of(run, options, *, processes=2, devices=1):
        words = [sys.executable, str(SCRIPT), str(policy_dir), str(run.path)]
        flags = host_flags(processes) if processes > 1 else [[]]
        environment = {
            "JAX_COMPILATION_CACHE_DIR": compiled_programs,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        commands = [[*words, json.dumps(options), *each] for each in flags]
        folder = tmp_path / f"start_{next(starts)}"
        own = [environment] * processes
        with running(commands, folder, devices=devices, environments=own) as started:
            return started.wait(400)

    return of


def statuses(ended):
    return [process.status for process in ended]


def both(ended):
    """What both wrote, for a message."""
    return "\n".join(process.err for process in ended)


def assert_equal_rows(rows, others):
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        names = {name for name in row if not is_time(name)} - set(OF_PROCESSES)
        assert names == {n for n in other if not is_time(n)} - set(OF_PROCESSES)
        for name in names:
            if isinstance(row[name], int):
                assert row[name] == other[name], name
            elif name not in ("logprob_gap", "largest_logprob_gap"):  # rounding alone
                assert row[name] == pytest.approx(other[name], **ROUNDING), name


def test_two_processes_are_one(make_run, start):
    """Rows, checkpoints and rollouts; one process then goes on where two stopped."""
    two, one = make_run("two"), make_run("one")
    options = {"settings": STEP | {"record": True}, "parts": QUICK}
    ended = start(two, options)
    assert statuses(ended) == [0, 0], both(ended)
    assert "finished at step 2" in ended[0].last_line
    assert ended[1].err == ""  # the first process alone speaks
    settings = changed(quick_settings(**STEP), **QUICK | {"mesh": {"fsdp": 1}})
    one(changed(settings, learner={"rows_per_device": 4}))
    assert_equal_rows(two.rows(), one.rows())
    assert max(row["groups/refills"] for row in two.rows()) > 0
    assert all("hosts_seconds" in row for row in two.rows(times=True))
    assert sorted(p.name for p in (two.path / "rollouts").iterdir()) == [
        *("step_00000001.1.npz", "step_00000001.npz"),
        *("step_00000002.1.npz", "step_00000002.npz"),
    ]
    # What two recorded is what one replays, turn for turn.
    replayed = make_run("replayed")
    replayed(
        changed(settings, learner={"rows_per_device": 4}),
        replay=str(two.path / "rollouts"),
    )
    assert_equal_rows(replayed.rows(), one.rows())


SIZES = [(1, 8, 1), (2, 2, 2), (8, 1, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_two_processes_of_four_devices(make_run, start, sizes):
    """A mesh over both; as on 8 devices of one process, and on one device."""
    mesh = dict(zip(("data", "fsdp", "tensor"), sizes))
    shards = sizes[0] * sizes[1]
    two, eight, one = make_run("two"), make_run("eight"), make_run("one")
    settings = STEP | {"num_steps": 3, "eval_every": 3}
    parts = {"mesh": mesh, "learner": {"rows_per_device": 8 // shards}}
    ended = start(two, {"settings": settings, "parts": parts}, devices=4)
    assert statuses(ended) == [0, 0], both(ended)
    eight(changed(quick_settings(**settings), **parts))
    one(changed(quick_settings(**settings), learner={"rows_per_device": 8}))
    assert_equal_rows(two.rows(), eight.rows())
    assert_equal_rows(two.rows(), one.rows())


@pytest.mark.slow
def test_killed_continued_and_on_another_topology(make_run, start):
    """The coordinator is killed, then the other; what follows is what would have been.

    At last one process of two devices goes on, and two processes after it.
    """
    whole, run = make_run("whole"), make_run("run")
    options = {"settings": RUN, "parts": PARTS}
    assert statuses(start(whole, options)) == [0, 0]
    for process, place, number in ((1, "sampling", 12), (0, "saving", 1)):
        fault = {"fault": {str(process): [place, number, "kill"]}}
        ended = start(run, options | fault)
        assert ended[process].status == -9
        left = ended[1 - process]
        assert left.status == 1, left.err
        assert f"process {process} (" in left.last_line
        assert "is lost" in left.last_line
        assert "same command again" in left.last_line
        assert left.seconds - ended[process].seconds < 5 + 3
    ended = start(run, options)
    assert statuses(ended) == [0, 0], both(ended)
    assert run.rows() == whole.rows()
    assert run.saved(4) == whole.saved(4)
    # One process goes on where two stopped, and two where one did.
    longer = changed(quick_settings(**RUN | {"num_steps": 5}), **PARTS)
    run(longer)
    ended = start(run, {"settings": RUN | {"num_steps": 6}, "parts": PARTS})
    assert statuses(ended) == [0, 0], both(ended)
    other = make_run("other")
    other(changed(quick_settings(**RUN | {"num_steps": 6}), **PARTS))
    assert_equal_rows(run.rows(), other.rows())


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [False, True], ids=["in_turn", "overlap"])
def test_sigterm_to_one_saves_on_all(make_run, start, overlap):
    whole, run = make_run("whole"), make_run("run")
    options = {"settings": RUN | {"overlap": overlap}, "parts": PARTS}
    assert statuses(start(whole, options)) == [0, 0]
    place = ["updating", 3, "term"] if overlap else ["sampling", 12, "term"]
    ended = start(run, options | {"fault": {"1": place}})
    assert statuses(ended) == [0, 0], both(ended)
    assert "stopped and saved at step" in ended[0].last_line
    assert "SIGTERM: saving the run" in ended[1].err
    ended = start(run, options)
    assert statuses(ended) == [0, 0], both(ended)
    assert run.rows() == whole.rows()
    assert run.saved(4) == whole.saved(4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "fault", "line"),
    [
        (1, ["sampling", 12, "fail"], "the engine is broken"),
        (1, ["recording", 2, "full"], "No space left on device"),
        (0, ["samples", 2, "full"], "No space left on device"),
    ],
    ids=["engine", "record", "sample"],
)
def test_an_error_on_one_ends_all(make_run, start, process, fault, line):
    options = {"settings": RUN | {"record": True}, "parts": PARTS}
    ended = start(make_run(), options | {"fault": {str(process): fault}})
    assert statuses(ended) == [1, 1], both(ended)
    assert line in ended[process].last_line
    other = ended[1 - process].last_line
    assert f"process {process} (" in other
    assert line in other


@pytest.mark.slow
def test_nan_on_one_is_skipped_on_all(make_run, start):
    run = make_run()
    options = {"settings": STEP, "parts": PARTS}
    ended = start(run, options | {"fault": {"1": ["packing", 1, "nan"]}})
    assert statuses(ended) == [0, 0], both(ended)
    assert [row["skipped_steps"] for row in run.rows()] == [1, 0]
    assert "1 optimiser steps skipped" in ended[0].last_line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {"own": {"1": {"objective": {"beta": 0.5}}}},
            ("disagree in settings", "beta"),
        ),
        ({"parts": PARTS | {"mesh": {"fsdp": 1}}}, ("no device of process 1",)),
        ({"parts": PARTS | {"mesh": {"tensor": 2}}}, ("MeshConfig.tensor",)),
    ],
    ids=["settings", "mesh", "tensor"],
)
def test_what_does_not_go_together_is_refused_by_all(make_run, start, changes, lines):
    run = make_run()
    ended = start(run, {"settings": STEP, "parts": PARTS} | changes)
    assert statuses(ended) == [2, 2], both(ended)
    for process in ended:
        assert all(line in process.last_line for line in lines), process.last_line
    assert not run.path.exists()


@pytest.mark.slow
def test_a_slow_process_is_waited_for(make_run, start):
    """Also where the next rollouts are sampled beside the update."""
    settings = STEP | {"num_steps": 3, "overlap": True}
    run, slow = make_run("run"), make_run("slow")
    options = {"settings": settings, "parts": PARTS}
    assert statuses(start(run, options)) == [0, 0]
    ended = start(slow, options | {"fault": {"1": ["sampling", 12, "slow"]}})
    assert statuses(ended) == [0, 0], both(ended)
    assert slow.rows() == run.rows()
    assert max(row["hosts_seconds"] for row in slow.rows(times=True)) > 1.5


@pytest.mark.slow
def test_a_supervised_run(make_run, start):
    two, one = make_run("two"), make_run("one")
    parts = {"mesh": {"fsdp": 2}, "learner": {"rows_per_device": 1}}
    ended = start(two, {"sft": True, "settings": {"num_steps": 4}, "parts": parts})
    assert statuses(ended) == [0, 0], both(ended)
    sft(changed(quick_sft(num_steps=4), **parts), one.path, quiet=True)
    assert_equal_rows(two.rows(), one.rows())
