"""The examples run as they stand, and show what they say."""

import dataclasses
import re
import runpy
import sys

import numpy as np
import pytest
from notebooks import EXAMPLES, notebooks

from gru_mem_jax import policy, tiny


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
def shown(tmp_path_factory):
    """What the notebooks printed, and facts of what they left."""
    return notebooks(tmp_path_factory.mktemp("notebooks"), FACTS)


FACTS = {
    "gru_mem.ipynb": {
        "answer": "trajectory.answer",
        "stop_reason": "trajectory.stop_reason",
        "finished": "result.finished",
        "steps": "[row['step'] for row in metrics]",
        "drawn": "[line.get_xdata().tolist() for line in figure.axes[0].lines]",
    },
    "documents_to_report.ipynb": {
        "answers": "len(results.answers())",
        "exact": "[[r['mode'], r['length'], r['exact']] for r in rows]",
        "drawn": "[[len(x.get_xdata()) for x in a.lines] for a in figure.axes]",
        "page": "page.read_text()",
    },
}


@pytest.mark.parametrize("name", FACTS)
def test_a_notebook_shows_what_it_prints(shown, name):
    for said, printed in shown[name]["cells"]:
        assert said == printed


def test_both_notebooks_make_the_policy_by_the_same_cell(shown):
    assert [shown[name]["taken"] for name in FACTS] == [0, 1]


def test_the_notebook_reads_trains_and_plots(shown):
    facts = shown["gru_mem.ipynb"]["facts"]
    assert facts["answer"] == "amber anchor bolt"
    assert facts["stop_reason"] == "exit_gate"
    assert facts["finished"]
    assert facts["steps"] == [1, 2, 3, 4, 5]
    assert facts["drawn"] == [[1, 2, 3, 4, 5]] * 3


def test_the_notebook_from_documents_to_a_report(shown):
    facts = shown["documents_to_report.ipynb"]["facts"]
    assert facts["answers"] == 10 * 2 * 3
    scores = {(mode, length): exact for mode, length, exact in facts["exact"]}
    assert scores["with_exit_gate", "1 documents"] == 0.8
    assert scores["question_alone", "3 documents"] == 0
    left, right = facts["drawn"]
    assert left == [2, 2, 2]
    assert right[:2] == [20, 20]
    assert "<h1>Evaluation of policy</h1>" in facts["page"]
