"""Sets of questions, answered by a script that follows the oracle."""

import dataclasses
import time

import numpy as np
import pytest
from oracle_sets import CONFIG, ENCODER, oracle_generator, question_sets
from test_asking import evaluated

from gru_mem_jax.agent.config import MODES, PAPER_MODES
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.labels import labels
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation import run, tabulate
from gru_mem_jax.evaluation.questions import DrawnSet
from gru_mem_jax.evaluation.queue import share_a_document
from gru_mem_jax.evaluation.suite import QuestionSet
from gru_mem_jax.evaluation.table import rich_table
from gru_mem_jax.rl.summary import summarize
from gru_mem_jax.runs import columns
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in
from gru_mem_jax.testing.threads import as_hosts
from gru_mem_jax.tiny import synthetic
from gru_mem_jax.tiny.sources import SyntheticSuite


@pytest.fixture(scope="module")
def results():
    """Of one set after the other, in every mode."""
    generator = oracle_generator(capacity=3, shuffle_seed=1)
    sets, turns, done = question_sets(), [], []
    for mode in MODES:
        config = dataclasses.replace(CONFIG, mode=mode)
        done += run.run_sets(
            generator, ENCODER, config, sets, on_turn=lambda: turns.append(1)
        )
    assert len(turns) == sum(len(t.turns) for r in done for t in r.trajectories)
    return done


@pytest.mark.parametrize("count", [2, 5])
def test_processes_answer_a_part_each_and_have_all_results(results, count):
    """Five processes: more than there are questions in some runs."""
    asked = []

    def work(hosts):
        generator, done = oracle_generator(capacity=3), []
        for mode in MODES:
            config = dataclasses.replace(CONFIG, mode=mode)
            done += run.run_sets(
                generator, ENCODER, config, question_sets(), hosts=hosts
            )
        asked.append(len(generator.requests))
        return done

    def figures(done):
        return [summarize(result.outcomes) for result in done]

    def texts(done):
        return [[t.answer for t in result.trajectories] for result in done]

    for done in as_hosts(count, work):
        assert figures(done) == figures(results)
        assert texts(done) == texts(results)
    turns = sum(len(t.turns) for result in results for t in result.trajectories)
    assert sum(asked) == turns  # nobody answered for another
    assert max(asked) < turns


def test_memagent_has_no_gates_to_measure():
    """Not in a training run's columns; `test_asking` has rows, and tables a dash."""
    gates = {"update_on_evidence", "update_off_evidence", "exact_exit", "well_formed"}
    columns = run.evaluation_columns(
        oracle_generator(), ENCODER, CONFIG, question_sets(questions=1), ("memagent",)
    )
    assert columns["eval/exact"] == 1.0
    assert not {f"eval/{name}" for name in gates} & set(columns)


def test_a_policy_that_never_parses_has_no_gate_right(tmp_path):
    """It keeps its memory off evidence, where that is right, and scores 0 for it."""
    generator = ScriptedGenerator(lambda request: "no idea", ENCODER)
    sets = question_sets(questions=2)
    for mode in ("with_exit_gate", "without_exit_gate"):
        config = dataclasses.replace(CONFIG, mode=mode)
        row = run.evaluation_columns(generator, ENCODER, config, sets)
        assert row["eval/update_off_evidence"] == row["eval/update_on_evidence"] == 0.0
        assert row["eval/well_formed"] == row["eval/well_formed_turns"] == 0.0
        assert (row["eval/exact"], row["eval/chunks_read"]) == (0.0, 1.0)
    rows = tabulate.table_rows(
        [evaluated(tmp_path, sets, ("without_exit_gate",), generator)]
    )
    for table_row in rows:
        assert table_row["update_off_evidence"] == 0.0


def test_columns_of_several_modes():
    sets = question_sets(questions=2)
    row = run.evaluation_columns(
        oracle_generator(), ENCODER, CONFIG, sets, ("memagent", "with_exit_gate")
    )
    for mode in ("memagent", "with_exit_gate"):
        assert row[f"eval/{mode}/exact/single_key"] == 1.0
        assert row[f"eval/{mode}/exact"] == 1.0
    assert row["eval/with_exit_gate/exact_exit"] == 1.0
    whole = row["eval/memagent/trajectory_tokens"]
    assert whole > row["eval/with_exit_gate/trajectory_tokens"]
    assert whole > row["eval/memagent/completion_tokens"] > 1


def test_every_column_of_an_evaluation_is_declared():
    row = run.evaluation_columns(
        oracle_generator(), ENCODER, CONFIG, question_sets(questions=1)
    )
    assert {name for name in row if not columns.find(name)} == set()
    modes = {name.replace("eval/", "eval/memagent/", 1) for name in row}
    assert {name for name in modes if not columns.find(name)} == set()


def test_sets_that_run_together_share_the_time(results):
    """Their seconds add up to the wall-clock, as their turns held slots."""
    begun = time.perf_counter()
    together = run.run_sets(
        oracle_generator(capacity=3, shuffle_seed=1), ENCODER, CONFIG, question_sets()
    )
    passed = time.perf_counter() - begun
    before = {(r.mode, r.questions.of.name): r for r in results}
    for result in together:
        assert 0 < result.seconds < passed
        other = before[result.mode, result.questions.of.name]
        mine, theirs = map(dataclasses.asdict, (result.outcomes, other.outcomes))
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    assert sum(result.seconds for result in together) < passed


def sets_on(*documents_of_sets):
    """Sets whose questions, named a0, a1, ... b0, ..., are on these documents."""
    sets = []
    for name, documents in zip("ab", documents_of_sets):
        examples = tuple(
            Example(id=f"{name}{i}", question=f"{name}{i}?", answers=("x",), document=d)
            for i, d in enumerate(documents)
        )
        source = ListSource(examples=examples)
        gold = tuple(labels(e, ENCODER, CONFIG.chunk_size) for e in examples)
        of = QuestionSet(name=name, source=source)
        sets.append(DrawnSet(of=of, examples=examples, labels=gold))
    return sets


def test_questions_on_one_document_are_asked_next_to_one_another():
    class Counting(ByteEncoder):
        seen = 0

        def encode_with_offsets(self, text):
            self.seen += len(text) if text[:2].isupper() else 0
            return super().encode_with_offsets(text)

    def asked(*documents_of_sets):
        """Questions in order of their first request, and those of the results."""
        encoder = Counting()
        generator = ScriptedGenerator(lambda request: "none", encoder, capacity=2)
        sets = sets_on(*documents_of_sets)
        results = run.run_sets(generator, encoder, CONFIG, sets)
        shown = [said_in(r, encoder)["question"].strip() for r in generator.requests]
        order = [question[:2] for question in dict.fromkeys(shown)]
        found = [[t.question for t in result.trajectories] for result in results]
        numbers = [[t.trajectory_id for t in r.trajectories] for r in results]
        return order, found, numbers, encoder.seen

    one, two, three = ((c * 2 + "word ") * 50 for c in "ABC")
    order, found, numbers, seen = asked([one, two, one], [two, three, one])
    assert order == ["a0", "a2", "b2", "b0", "a1", "b1"]
    assert found == [["a0?", "a1?", "a2?"], ["b0?", "b1?", "b2?"]]
    assert numbers == [[0, 1, 2]] * 2
    assert seen == len(one) + len(two) + len(three)  # each is chunked once
    assert share_a_document(sets_on([one, two], [three, one]))
    # Without a shared document the sets take turns.
    order, *_ = asked([one, two], [three])
    assert order == ["a0", "b0", "a1"]
    assert not share_a_document(sets_on([one, two], [three]))


def test_the_table_has_a_line_per_row_and_120_columns(tmp_path):
    from rich.console import Console

    sets = question_sets(questions=1)
    rows = tabulate.table_rows(
        [
            evaluated(tmp_path / name, sets, policy=name)
            for name in ("seed_one", "seed_two")
        ]
    )
    for row in rows[:3]:
        row |= {"failed": 1, "exact_sd": 0.25, "length": "6400 documents"}
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        console.print(rich_table(rows))
    text = capture.get()
    assert text.count("multi_query") == 3 * len(MODES)
    assert text.count("with_exit_gate") == len(
        [row for row in rows if row["mode"] == "with_exit_gate"]
    )
    assert "…" not in text
    assert "policy mean, evidence uniform, chunks 8" in text
    assert "100–100" in text
    assert "25.0" in text
    more = text.rstrip().splitlines()[-1]
    assert more == "a wider terminal shows passes, retention, format, capture too"
    once = [row for row in rows if row["mode"] in PAPER_MODES]
    with console.capture() as capture:
        console.print(rich_table(once))
    text = capture.get()
    assert "turns" not in text  # as many as chunks
    assert text.rstrip().endswith("a wider terminal shows retention, format too")


@pytest.mark.parametrize("width", [60, 70, 80, 200])
def test_a_narrow_terminal_has_fewer_columns_and_whole_numbers(width):
    from rich.console import Console

    row = {"policy": "p", "set": "multi_query", "mode": "without_exit_gate"}
    row |= {"exact": 1.0, "exact_low": 0.25, "exact_high": 1.0, "retention": 0.875}
    row |= {"question_seconds": 1.23, "well_formed": 1.0, "chunks_read": 0.75}
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(rich_table([row], width=width))
    text = capture.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert "100.0  25–100" in text
    assert ("87.5" in text) == (width >= 80)
    assert ("a wider terminal shows retention" in text) == ("87.5" not in text)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_questions": 0}, "num_questions"),
        ({"tasks": ("singel_key",)}, "singel_key"),
        ({"contexts": (("nowhere", 8),)}, "nowhere"),
        ({"contexts": (("uniform",),)}, "contexts"),
        ({"contexts": (("uniform", 1),)}, "num_chunks"),
    ],
)
def test_suites_that_cannot_be_made_are_refused(settings, named):
    with pytest.raises(InputError, match=named):
        SyntheticSuite(**settings)


def test_suites_are_reproducible():
    config = SyntheticSuite(contexts=(("first_20", 10),), num_questions=3)
    first, second = (list(config.question_sets()) for _ in range(2))
    assert first == second
    assert {(item.start, item.count) for item in first} == {(0, 3)}
    assert [item.name for item in first] == list(synthetic.TASKS)
    assert [item.name for item in first if not item.in_mix] == ["chain"]
    assert first[0].labels == {"placement": "first_20", "num_chunks": 10}
    examples = [[item.source.example(i) for i in range(3)] for item in first]
    again = [[item.source.example(i) for i in range(3)] for item in second]
    assert examples == again
