"""The examples run as they stand, and show what they say."""

import dataclasses
import json
import pathlib
import re
import runpy
import sys

import numpy as np

from gru_mem_jax import policy, tiny

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


def test_the_notebook_reads_trains_and_plots(tmp_path, monkeypatch, capsys):
    notebook = json.loads((EXAMPLES / "gru_mem.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["trajectory"].answer == "amber anchor bolt"
    assert names["trajectory"].stop_reason == "exit_gate"
    assert names["result"].finished
    assert [row["step"] for row in names["metrics"]] == [1, 2, 3, 4, 5]
    (axes,) = names["figure"].axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 2, 3, 4, 5]] * 3
    # What it printed here is what it shows to who only looks at it.
    shown = "".join(
        text
        for cell in cells
        for output in cell["outputs"]
        for text in output.get("text", ())
    )
    assert shown == capsys.readouterr().out
