"""`gru-mem show`: trajectories against their labels, the last rows, and bad files."""

import json
import os
import re

import pytest
from run_folders import make_run, sample, training_rows

from gru_mem_jax.cli.main import main
from gru_mem_jax.errors import InputError
from gru_mem_jax.runs.samples import read_samples, sample_steps


def cells(out):
    """Cells of the turn table: two or more spaces part columns."""
    lines = [line for line in out.splitlines() if re.match(r" \d+ .* [+-]1\.00 ", line)]
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def test_gates_against_labels_and_the_memory(tmp_path, capsys):
    run = make_run(tmp_path / "run", training_rows(9), {1: [sample()]})
    assert main(["show", str(run)]) == 0
    out, err = capsys.readouterr()
    assert err == "trajectories were kept of step 1\n"
    assert "question  Which code belongs to heron?" in out
    assert "gold      amber anchor bolt" in out
    assert cells(out) == [
        ["1", "no", "no", "+1.00", "+0.10", "10"],
        ["2", "yes", "yes", "yes", "+1.00", "+0.10", "10", "heron: amber"],
        ["3", "none !", "none", "-1.00", "-0.20", "10", "think missing: x"],
    ]
    assert "reading   3 of 3 chunks (end_of_context); the last evidence is in" in out
    assert "chunk 2: 1 too late" in out
    assert "answer    heron: amber" in out
    assert "reward    +0.50 (before weights: exit -0.50, format +0.00" in out
    rows = [line.split() for line in out.splitlines() if re.match(r" +\d+ +1\.", line)]
    assert [row[0] for row in rows] == ["4", "5", "6", "7", "8", "9"]


def test_a_rollout_without_a_score_is_told(tmp_path, capsys):
    run = make_run(tmp_path / "run", [], {1: [sample() | {"scored": False}]})
    assert main(["show", str(run)]) == 0
    assert "reward    none: the reward function returned" in capsys.readouterr().out


def test_wrong_gates_are_marked_where_the_mode_has_them(tmp_path, capsys):
    wrong = sample()
    wrong["evidence"], wrong["last_evidence"] = [True, False, False], 0
    for mode, marks in (
        ("with_exit_gate", ["no !", "no !", "yes !", "yes", "none !", "none"]),
        ("without_exit_gate", ["no !", "no", "yes !", "yes", "none !", "none"]),
        ("memagent", ["-", "-", "-", "-", "-", "-"]),
    ):
        wrong["trajectory"]["mode"] = mode
        run = make_run(tmp_path / mode, [], {1: [wrong]})
        assert main(["show", str(run)]) == 0
        table = cells(capsys.readouterr().out)
        starts = [2, 1, 1]  # after the chunk's number and its label
        found = [row[at : at + 2] for row, at in zip(table, starts)]
        assert [cell for row in found for cell in row] == marks


def test_a_chunk_with_several_turns_is_told_by_pass_and_step(tmp_path, capsys):
    """Labels go by the chunk, rewards and advantages by the turn."""
    run = sample()
    quiet, found, _, answer = run["trajectory"]["turns"]
    places = ((1, "scan", 0), (1, "scan", 1), (1, "scan", 2), (2, "merge", 1))
    turns = [
        (found if place[2] == 1 else quiet)
        | dict(zip(("pass_number", "step", "chunk"), place))
        for place in places
    ]
    run["trajectory"] |= {"mode": "parallel", "turns": [*turns, answer]}
    run["turn_rewards"] = [1.0, -1.0, 1.0, 1.0]
    run["advantages"] = [0.1, -0.2, 0.3, 0.4, 0.5]
    assert main(["show", str(make_run(tmp_path / "run", [], {1: [run]}))]) == 0
    out = capsys.readouterr().out
    assert re.search(r"pass +step +chunk +evidence +update +exit +reward", out)
    assert cells(out) == [
        ["1", "scan", "1", "no", "no", "+1.00", "+0.10", "10"],
        ["1", "scan", "2", "yes", "yes", "yes", "-1.00", "-0.20", "10", "heron: amber"],
        ["1", "scan", "3", "no", "no", "+1.00", "+0.30", "10"],
        [
            "2",
            "merge",
            "2",
            "yes",
            "yes",
            "yes",
            "+1.00",
            "+0.40",
            "10",
            "heron: amber",
        ],
    ]
    assert "3 of 3 chunks in 2 passes, 4 turns (end_of_context)" in out
    assert "the last evidence is in chunk 2\n" in out


def test_the_newest_step_or_the_one_that_is_asked_for(tmp_path, capsys):
    samples = {s: [sample(s, question=f"Q{s}{c}") for c in "abcd"] for s in (1, 10, 2)}
    run = make_run(tmp_path / "run", [], samples)
    for flags, expected in (
        ([], ["Q10a", "Q10b", "Q10c"]),
        (["--step=2", "--limit=1"], ["Q2a"]),
        (["--step=1", "--limit=99"], ["Q1a", "Q1b", "Q1c", "Q1d"]),
    ):
        assert main(["show", str(run), *flags]) == 0
        out = capsys.readouterr().out
        assert re.findall(r"question  (\S+)", out) == expected
    assert main(["show", str(run), "--step=3"]) == 2
    err = capsys.readouterr().err
    assert err.endswith(
        "no trajectories of step 3 were kept; available: steps 1, 2, 10\n"
    )


def test_nothing_in_a_trajectory_reaches_the_terminal(tmp_path, capsys):
    text = "\x1b]0;title\x07\x1b[31m[bold]red[/bold]\u202e\r\n\x9b2J \ud800end"
    bad = sample(question=text, memory=text)
    bad["task"], bad["answers"] = text, [text]
    bad["rewards"] = {text: 1.0}
    bad["trajectory"]["stop_reason"] = text
    bad["trajectory"]["turns"][2] |= {"problem": text, "text": text}
    rows = [{"step": 1, "exact": text}]
    run = make_run(tmp_path / "run", rows, {1: [bad]})
    assert main(["show", str(run)]) == 0
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\x9b\r\u202e\ud800")
    assert "[bold]red[/bold]" in out  # no mark-up either


def test_a_run_with_rows_alone_and_one_with_nothing(tmp_path, capsys):
    run = make_run(tmp_path / "run", [{"step": 3, "exact": 0.25, "kl": "nan"}])
    assert main(["show", str(run)]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"step +exact % +kl", out)
    assert out.split()[-3:] == ["3", "25.0", "nan"]
    assert err == ""
    run = make_run(tmp_path / "empty")
    assert main(["show", str(run)]) == 2
    assert "has neither rows nor trajectories yet" in capsys.readouterr().err


def broken(**changes):
    return json.dumps(sample() | changes)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", r"jsonl:2: expected a line of JSON"),
        ("{", r"jsonl:2: expected a line of JSON"),
        ("[" * 100_000, r"jsonl:2: expected a line of JSON"),
        ("[]", r"jsonl:2: sample must be an object, got list"),
        ("{}", r"jsonl:2: sample has no field 'step'"),
        (broken(evidence="yes"), r"jsonl:2: sample.evidence must be"),
        (broken(evidence=[1]), r"jsonl:2: sample.evidence must be bool"),
        (broken(rewards={"exit": "x"}), r"jsonl:2: sample.rewards.exit must be a num"),
        (broken(trajectory=[]), r"jsonl:2: trajectory must be an object"),
        (broken(trajectory={}), r"jsonl:2: trajectory has no field 'mode'"),
        (broken(more=1), r"jsonl:2: sample has an unknown field 'more'"),
    ],
)
def test_samples_that_are_none(line, expected, tmp_path, capsys):
    run = make_run(tmp_path / "run", [], {4: [sample(), line]})
    assert main(["show", str(run), "--limit=1"]) == 0  # what is not asked for
    capsys.readouterr()
    assert main(["show", str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(expected, err), err


def test_odd_files_in_the_folder(tmp_path):
    folder = tmp_path / "trajectories"
    assert sample_steps(folder) == []
    folder.mkdir()
    for name in (
        "step_1.jsonl",
        "step_00000002.jsonl.saving",
        "x",
        "step_abcdefgh.jsonl",
    ):
        (folder / name).touch()
    os.mkfifo(folder / "step_00000003.jsonl")
    assert sample_steps(folder) == [3]
    with pytest.raises(InputError, match="expected a file"):
        read_samples(folder, 3)
    (folder / "step_00000004.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match="jsonl:1: expected a line of JSON"):
        read_samples(folder, 4)


def test_what_is_wrong_with_a_run_is_told_below_its_rows(tmp_path, capsys):
    flat = {"groups/sampled": 8, "groups/flat": 8, "well_formed_turns": 0.0}
    rows = [{"step": step, **flat} for step in (1, 2)]
    assert main(["show", str(make_run(tmp_path / "run", rows))]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: no turn is well formed, so that no gate is ")
    rows += [{"step": 3, **flat}, {"step": 4, "eval/exact": 0.5}]
    assert main(["show", str(make_run(tmp_path / "more", rows))]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("warning: all groups are flat: ")
