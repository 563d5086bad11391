"""Warnings of a run, from its rows."""

import dataclasses
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gru_mem_jax.runs import columns
from gru_mem_jax.runs.health import AGAIN_ROWS, Health, health_of, holds

GOOD = {
    "reward/trajectory": 0.5,
    "reward/exit": -0.1,
    "exact": 0.7,
    "update_on_evidence": 0.9,
    "update_off_evidence": 0.8,
    "early_exit": 0.1,
    "late_exit": 0.2,
    "chunks_read": 0.7,
    "well_formed_turns": 0.98,
    "cut_turns": 0.01,
    "groups/sampled": 8,
    "groups/flat": 3,
    "entropy": 0.02,
    "skipped_steps": 0,
    "logprob_gap": 1e-6,
}
CLOSED = {"update_on_evidence": 0.0, "update_off_evidence": 1.0}
SUPERVISED = {"loss": 0.18, "target_tokens": 300, "skipped_steps": 0}


def names(health):
    return [rule.name for rule in health.holding]


def said(rows):
    """Steps and beginnings of what is said of rows, step 1 first."""
    health = Health()
    found = []
    for step, row in enumerate(rows, 1):
        for line in health.see({"step": step, **row}):
            found.append((step, line.split(": ", 2)[2][:24]))
    return found, health


@pytest.mark.parametrize(
    ("name", "row", "rows"),
    [
        ("skipped", {"skipped_steps": 1}, 1),
        ("gap", {"logprob_gap": 0.05}, 2),
        ("malformed", {"well_formed_turns": 0.0}, 1),
        ("cut", {"cut_turns": 0.5}, 2),
        ("flat", {"groups/flat": 8}, 3),
        ("update_closed", CLOSED, 3),
        ("update_open", {"update_on_evidence": 1.0, "update_off_evidence": 0}, 3),
        ("exit_never", {"chunks_read": 1.0, "late_exit": 1.0}, 3),
        ("exit_at_once", {"early_exit": 0.95}, 3),
        ("wrong_answers", {"exact": 0.0, "update_off_evidence": 0.95}, 3),
        ("entropy", {"entropy": 1e-5}, 3),
    ],
)
def test_each_begins_after_its_rows_and_is_said_once(name, row, rows):
    bad = GOOD | row
    assert said([GOOD] * 5)[0] == []
    early, health = said([GOOD, *[bad] * (rows - 1)])
    assert (early, names(health)) == ([], [])
    found, health = said([GOOD, *[bad] * 40])
    assert [step for step, _ in found] == [1 + rows]
    assert names(health) == [name]
    (line,) = health.at_end()
    rule = next(rule for rule in columns.declared().warnings if rule.name == name)
    assert line == f"warning: at the end: {rule.says}"
    health.see({"step": 99, **GOOD})
    assert health.at_end() == []


def test_supervised_runs_are_judged_by_held_out_gates_and_not_by_their_loss():
    auc, balanced = "gates/unaided_update_auc", "gates/unaided_update_balanced_accuracy"
    guesses = {auc: 0.38, balanced: 0.5, "gates/exit_auc": 0.9}
    evaluated = {f"eval/{k}": v for k, v in (GOOD | CLOSED).items()}
    rows = [guesses, *[SUPERVISED, SUPERVISED | guesses | evaluated] * 3]
    found, health = said(rows)
    # Rows without an evaluation neither count nor break, nor does the one at the start.
    assert [step for step, _ in found] == [7, 7]
    assert names(health) == ["update_unlearned", "eval/update_closed"]
    learned = SUPERVISED | guesses | {auc: 0.9}
    assert names(said([learned] * 3)[1]) == ["update_leans"]
    assert names(said([learned | {balanced: 0.8}] * 3)[1]) == []
    exits = learned | {balanced: 0.8, "gates/exit_auc": 0.5}
    assert names(said([exits] * 3)[1]) == ["exit_unlearned"]
    # In reinforcement learning the rollouts tell, and nothing is said twice.
    assert names(said([GOOD | evaluated] * 5)[1]) == []


def test_what_comes_and_goes_is_said_seldom():
    bad = GOOD | {"skipped_steps": 1}
    found, _ = said([bad, GOOD] * 50)
    assert [step for step, _ in found] == [1, 21, 41, 61, 81]
    # What began too soon after it was said is said when the time has come.
    found, _ = said([bad, GOOD, *[bad] * 40])
    assert [step for step, _ in found] == [1, 1 + AGAIN_ROWS]


def test_a_resumed_run_neither_repeats_nor_loses_a_warning():
    flat = GOOD | {"groups/flat": 8}
    rows = [{"step": n, **(flat if n % 7 else GOOD)} for n in range(1, 60)]
    whole = Health()
    lines = [whole.see(row) for row in rows]
    assert sum(map(len, lines)) == 3
    for cut in range(len(rows)):
        resumed = health_of(rows[:cut])
        assert [resumed.see(row) for row in rows[cut:]] == lines[cut:]
        assert resumed.at_end() == whole.at_end()


def test_conditions():
    row = {"a": 2, "b/c": 2.0, "d": "nan", "e": None}
    assert holds("a >= b/c", row) is holds("a <= 2", row) is True
    assert holds("a < b/c", row) is holds("a > 2.5", row) is False
    for condition in ("x > 0", "a > x", "d > 0", "e > 0"):
        assert holds(condition, row) is None
    with pytest.raises(ValueError, match="expected NAME OP VALUE, got 'a = 1'"):
        holds("a = 1", row)


def test_what_is_declared_can_hold():
    """Names of columns that there are, in conditions that can be read."""
    rules = columns.declared().warning_rules
    assert len({rule.name for rule in rules}) == len(rules)
    for rule in rules:
        assert rule.says
        assert rule.advice
        for condition in rule.when:
            name, _, other = condition.split()
            assert columns.find(name), condition
            values = {name: 0.0} | ({other: 0.0} if columns.find(other) else {})
            assert holds(condition, values) is not None, condition
        assert "`" not in rule.line


def test_settings_that_are_advised_exist():
    from gru_mem_jax.agent import AgentConfig
    from gru_mem_jax.data import EvidenceTurns
    from gru_mem_jax.rl import RewardConfig
    from gru_mem_jax.sampling import EngineConfig
    from gru_mem_jax.train import SFTConfig

    named = (AgentConfig, EngineConfig, EvidenceTurns, RewardConfig, SFTConfig)
    fields = {c.__name__: {f.name for f in dataclasses.fields(c)} for c in named}
    texts = [rule.advice for rule in columns.declared().warning_rules]
    texts += [column.if_not for column in columns.declared().columns]
    found = re.findall(r"\b([A-Z]\w+)\.(\w+)", " ".join(texts))
    assert len(found) > 8
    for config, field in found:
        assert field in fields[config], f"{config}.{field}"


values = st.one_of(st.floats(), st.text(max_size=3), st.none(), st.booleans())


rows_of_any_kind = st.lists(
    st.dictionaries(st.sampled_from([*GOOD, *SUPERVISED]), values), max_size=6
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows_of_any_kind)
def test_no_row_is_a_fault(rows):
    health = Health()
    for row in rows:
        assert all(line.startswith("warning: step ") for line in health.see(row))
    assert len(health.at_end()) == bool(health.holding)
