"""Columns are declared once; what is rendered from that is what lies in the docs."""

import pathlib
import subprocess
import sys

import pytest

import gru_mem_jax
from gru_mem_jax.rl.outcomes import outcomes
from gru_mem_jax.rl.summary import summarize
from gru_mem_jax.runs import columns, tensorboard
from gru_mem_jax.runs.metrics import time_columns

DOCS = pathlib.Path(gru_mem_jax.__file__).parents[1] / "docs"


def test_the_page_is_what_is_declared():
    """Else: python -m gru_mem_jax.runs.columns > docs/metrics.md."""
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert text == columns.markdown()
    module = [sys.executable, "-m", "gru_mem_jax.runs.columns"]
    printed = subprocess.run(module, capture_output=True, text=True, check=True)
    assert printed.stdout == text


def test_declarations_are_sound():
    declared = columns.declared()
    names = [column.name for column in declared.columns]
    assert len(names) == len(set(names))
    panels = {panel.name for panel in declared.panels}
    assert {c.panel for c in declared.columns if c.panel} == panels
    assert set(declared.tables) == {"training", "card", "evaluation"}
    for name in (name for table in declared.tables.values() for name in table):
        assert name in names
    for column in declared.columns:
        assert column.format in ("text", "percent") or format(1, column.format)
        stars = column.name.count("*")
        assert column.heading.count("{}") == stars
        assert column.label.count("{}") in (
            (0, stars) if not column.label else (stars,)
        )
        assert column.meaning


def test_what_is_summarized_is_what_is_evaluated(make_outcomes):
    evaluated = {c.name for c in columns.declared().columns if c.evaluated}
    assert evaluated == set(summarize(make_outcomes))


@pytest.fixture
def make_outcomes():
    """Of two gated trajectories: every name of a summary."""
    from gru_mem_jax.agent.trajectory import Trajectory, Turn
    from gru_mem_jax.data.example import Example

    common = {"well_formed": True, "memory": "", "memory_tokens": 0, "text": ""}
    common |= {"finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    turns = (
        Turn(kind="memory", chunk=0, update=True, exit=False, seconds=0.0, **common),
        Turn(kind="answer", seconds=0.0, **common),
    )
    example = Example(id="1", question="?", answers=("x",), document="x")
    runs = [
        Trajectory(mode=mode, question="?", answer="x", turns=turns)
        for mode in ("with_exit_gate", "parallel")
    ]
    return outcomes([runs], [example], [((True,), 0)])


@pytest.mark.parametrize(
    ("name", "heading", "label"),
    [
        ("exact", "exact", "answer's score"),
        ("unparsed/think_missing", "unparsed: think_missing", None),
        ("rollout_seconds_per_s", "rollout share", None),
        ("eval/exact", "eval exact", "all"),
        ("eval/exact/chain", "eval exact chain", "chain"),
        ("eval/memagent/exact", "eval exact memagent", "memagent"),
        ("eval/memagent/exact/a b", "eval exact memagent, a b", "memagent, a b"),
        ("eval/exact_exit", "eval exact exit", "exact exit"),
        ("eval/memagent/memory_tokens", "eval memagent: memory", "memagent: memory"),
        ("exact/gated", "exact gated", "gated"),
        ("exact/gated/with_evidence", "exact gated, with_evidence", None),
    ],
)
def test_columns_are_found_by_name(name, heading, label):
    column = columns.find(name)
    assert (column.name, column.heading) == (name, heading)
    assert label is None or column.label == label


@pytest.mark.parametrize("name", ["mine", "", "eval/mine", "exact/", "eval/a/b/c/d"])
def test_other_names_are_not(name):
    assert columns.find(name) is None


def test_cells():
    exact, tokens = columns.find("exact"), columns.find("completion_tokens")
    assert (exact.title, exact.cell(0.5), exact.cell(1)) == ("exact %", "50.0", "100.0")
    assert (tokens.title, tokens.cell(23.456)) == ("tokens", "23.5")
    assert columns.find("num_questions").cell(12) == "12"
    assert columns.find("kl").cell(8.5e-14) == "8.50e-14"
    assert columns.find("set").cell("a") == "a"
    for column in (exact, tokens):
        assert column.cell(None) == "–"
        assert column.cell("nan") == "nan"
        assert column.cell(True) == "True"
        assert column.cell(10**40).startswith("1000")
        assert column.cell(float("nan")) == "nan"


def test_tables_have_what_some_row_has_in_their_own_order():
    rows = [{"step": 1, "kl": 0.1, "mine": 2}, {"exact": 1.0, "exact/gated": 0.5}]
    shown = columns.table("training", rows)
    assert [column.name for column in shown] == ["exact", "kl", "exact/gated"]
    assert columns.table("evaluation", rows)[0].name == "exact"
    assert columns.table("card", []) == []


def test_times_end_in_seconds_or_per_s():
    row = time_columns({"rollout": 2.0, "update": 0.0, "step": 4.0}, 100, 50)
    assert row["rollout_seconds_per_s"] == 0.5
    assert row["rollout_tokens_per_s"] == 50
    assert row["update_tokens_per_s"] is None
    assert "step_seconds_per_s" not in row
    assert all(columns.is_time(name) for name in row)
    for column in columns.declared().columns:
        of_a_clock = column.unit in ("s", "tokens/s", "share of the step")
        assert columns.is_time(column.name) == (of_a_clock and column.name != "seconds")


def test_tensorboard_has_the_descriptions_once(tmp_path):
    writer = tensorboard.EventWriter(tmp_path / "tb", clock=lambda: 0.0)
    for step in (1, 2):
        writer.write(step, {"exact": 0.5, "mine": 1.0})
    writer.close()
    data = writer.path.read_bytes()
    text = columns.find("exact").description.encode()
    assert text.startswith(b"mean score of the answers. healthy: ")
    assert data.count(text) == 1
    # Field 9 of Summary.Value: plugin_data, summary_description, data_class.
    plugin = b"\x0a\x09\x0a\x07scalars"
    metadata = plugin + b"\x1a" + bytes([len(text)]) + text + b"\x20\x01"
    assert b"\x4a" + bytes([len(metadata)]) + metadata in data or len(text) > 127
    assert data.count(b"\x0a\x04mine") == 2


def test_declarations_import_nothing_heavy():
    code = (
        "import sys, gru_mem_jax.runs.columns as c; c.declared(); "
        "print(sorted({'jax', 'numpy', 'rich', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
