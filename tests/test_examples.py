"""The examples run as they stand, and show what they say."""

import contextlib
import dataclasses
import io
import json
import pathlib
import re
import runpy
import sys

import numpy as np
import pytest

from gru_mem_jax import policy, tiny
from gru_mem_jax.sampling import engine_pool

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def test_minimal_rl_raises_its_reward_and_saves(tmp_path, monkeypatch, capsys):
    script, start, out = EXAMPLES / "minimal_rl.py", tmp_path / "a", tmp_path / "b"
    assert len(script.read_text().splitlines()) <= 60
    small = dataclasses.replace(
        tiny.tiny_agent(), memory_tokens=16, completion_tokens=24, prompt_tokens=128
    )
    tiny.TinyModel(agent=small).write(start, seed=0)
    monkeypatch.setattr(sys, "argv", [str(script), str(out), str(start)])
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    rewards = [float(x) for x in re.findall(r"reward ([\d.]+)", shown)]
    assert len(rewards) == 5
    assert rewards[-1] > rewards[0] + 0.1
    _, trained = policy.load_policy(out, "float32")
    assert np.isfinite(trained["ends"]["embedding"]).all()
    assert policy.policy_settings(policy.open_policy_dir(out)) == small


@pytest.fixture(scope="module")
def first_notebook(tmp_path_factory):
    """Runs gru_mem.ipynb."""
    return run_notebook("gru_mem.ipynb", tmp_path_factory.mktemp("first"))


def code_cells(name):
    cells = json.loads((EXAMPLES / name).read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run_notebook(name, folder, made=None):
    """Runs a notebook; what it printed must be what it shows.

    Args:
      name: of its file.
      folder: for temporary files.
      made: source of a cell to the names that it would make, in place of running it.

    Returns:
      Its names.
    """
    made, names = made or {}, {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "agg")
        patch.setattr("tempfile.tempdir", str(folder))
        # An engine; the tests' eight devices would have one each.
        one = engine_pool.local_mesh(1)
        patch.setattr(engine_pool, "local_mesh", lambda devices=None: one)
        for number, cell in enumerate(code_cells(name)):
            source = "".join(cell["source"])
            if source in made:
                names |= made[source]
                continue
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(source, f"{name}, cell {number}", "exec"), names)
            outputs = (output.get("text", ()) for output in cell["outputs"])
            shown = "".join(text for output in outputs for text in output)
            assert shown == printed.getvalue()
    return names


def test_the_notebook_reads_trains_and_plots(first_notebook):
    names = first_notebook
    assert names["trajectory"].answer == "amber anchor bolt"
    assert names["trajectory"].stop_reason == "exit_gate"
    assert names["result"].finished
    assert [row["step"] for row in names["metrics"]] == [1, 2, 3, 4, 5]
    (axes,) = names["figure"].axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 2, 3, 4, 5]] * 3


def test_the_notebook_from_documents_to_a_report(first_notebook, tmp_path):
    """Its policy is the first notebook's, which the same cell has made there."""
    (cell,) = {
        "".join(cell["source"])
        for name in ("gru_mem.ipynb", "documents_to_report.ipynb")
        for cell in code_cells(name)
        if "train.sft(" in "".join(cell["source"])
    }
    made = {cell: {"policy": first_notebook["policy"]}}
    names = run_notebook("documents_to_report.ipynb", tmp_path, made)
    assert len(names["results"].answers()) == 10 * 2 * 3
    scores = {(row["mode"], row["length"]): row["exact"] for row in names["rows"]}
    assert scores["with_exit_gate", "1 documents"] == 0.8
    assert scores["question_alone", "3 documents"] == 0
    left, right = names["figure"].axes
    assert [len(line.get_xdata()) for line in left.lines] == [2, 2, 2]
    assert [len(line.get_xdata()) for line in right.lines[:2]] == [20, 20]
    page = names["page"].read_text()
    assert "<h1>Evaluation of policy</h1>" in page
