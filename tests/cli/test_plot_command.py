"""`gru-mem plot`: which pictures come out, and what is refused."""

import json
import os
import re

import pytest
from run_folders import make_run, training_rows

from gru_mem_jax.cli.main import main
from gru_mem_jax.runs.columns import declared
from gru_mem_jax.runs.plots import plot_training, smooth


def is_png(path):
    data = path.read_bytes()
    return data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5000


PANELS = declared().panels


def test_all_panels_and_the_overview(tmp_path, capsys):
    rows = training_rows(6)
    rows[-1] |= {"exact/gated": 0.9, "exact/answer": 0.8}  # of supervised training
    rows[-1] |= {"gates/exit_auc": 0.9, "gates/unaided_update_auc": 0.8}
    run = make_run(tmp_path / "run", rows)
    assert main(["plot", str(run)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    names = ["overview", *(panel.name for panel in PANELS)]
    paths = [run / "plots" / f"{name}.png" for name in names]
    assert out.splitlines() == [str(path) for path in paths]
    assert all(is_png(path) for path in paths)
    assert len(list((run / "plots").iterdir())) == len(paths)  # nothing aside


def test_while_the_run_goes_on_and_from_a_read_only_folder(tmp_path, capsys):
    run = make_run(tmp_path / "run", [{"step": 1, "exact": 0.5, "kl": "nan"}])
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "exa')  # being written
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert main(["plot", str(run), f"--out={tmp_path / 'new' / 'plots'}"]) == 0
    names = [line.rsplit(os.sep, 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert names == ["overview.png", "answers.png"]
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
    # A file in its place stands for a disk that takes no writes, also for root.
    (run / "plots").rmdir()
    (run / "plots").write_text("")
    assert main(["plot", str(run)]) == 2
    assert capsys.readouterr().err.endswith("; give --out DIR\n")


def test_several_runs_with_names_that_are_no_formulas(tmp_path, capsys):
    paths = [tmp_path / name for name in ("a$x^{$", "_b", "漢字\x1b[31m")]
    runs = [str(make_run(path, training_rows(70))) for path in paths]
    assert main(["plot", *runs, f"--out={tmp_path / 'out'}"]) == 0
    assert is_png(tmp_path / "out" / "overview.png")
    assert main(["plot", *runs]) == 2
    assert "several runs: give --out DIR" in capsys.readouterr().err


def lines_of(rows):
    from gru_mem_jax.runs import plots as training_figures

    panels = {p.name: p for p in PANELS}
    names = [name for row in rows for name in row]
    found = training_figures._lines(panels["evaluation_answers"], {"r": rows}, names)
    return {line.label: line.values for line in found}


def test_evaluation_columns_by_task_and_mode():
    row = {"step": 0, "eval/exact": 0.1, "eval/exact/chain": 0.2}
    assert lines_of([row]) == {"all": [0.1], "chain": [0.2]}
    row = {"step": 0, "eval/memagent/exact": 0.3, "eval/memagent/exact/chain": 0.4}
    assert lines_of([row]) == {"memagent": [0.3], "memagent, chain": [0.4]}


def test_smoothing_is_a_trailing_mean():
    assert smooth([1.0, 3.0, 2.0]) == ([1.0, 3.0, 2.0], 1)
    means, width = smooth([float(i) for i in range(90)])
    assert width == 3
    assert means[:3] == [0.0, 0.5, 1.0]
    assert means[-1] == 88.0


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "has no rows in metrics.jsonl yet"),
        ([{"step": 3}], "no numbers to plot yet"),
        ([{"step": 1, "exact": "nan", "note": True}], "no numbers to plot yet"),
        ([{"step": 10**400, "exact": 1.0}], "no numbers to plot yet"),
    ],
)
def test_runs_without_numbers(rows, expected, tmp_path, capsys):
    run = make_run(tmp_path / "run")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "metrics.jsonl").write_text(text)
    assert main(["plot", str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert expected in err


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "no such run folder"),
        (lambda path: path.mkdir(), r"not a run folder \(no environment.json\)"),
        (lambda path: path.write_text("x"), "no such run folder"),
        (
            lambda path: (make_run(path) / "metrics.jsonl").write_text("[1]\n"),
            "metrics.jsonl:1: expected a JSON object with a step",
        ),
        (
            lambda path: (
                (make_run(path) / "metrics.jsonl").unlink(),
                os.mkfifo(path / "metrics.jsonl"),
            ),
            "has no rows",
        ),
    ],
)
def test_folders_that_are_no_runs(make, expected, tmp_path, capsys):
    make(tmp_path / "x")
    assert main(["plot", str(tmp_path / "x")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(expected, err), err


def test_rows_of_very_many_tasks_are_cut(tmp_path):
    row = {"step": 1} | {f"eval/exact/task{i}": 0.5 for i in range(200)}
    paths = plot_training({"r": [row]}, tmp_path)
    assert [p.name for p in paths] == ["overview.png", "evaluation_answers.png"]
