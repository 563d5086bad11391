"""Sets of questions, answered by a script that follows the oracle."""

import base64
import json
import re
import time

import pytest

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptConfig
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation import run, suite
from gru_mem_jax.evaluation.report import write_report
from gru_mem_jax.evaluation.table import rich_table
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in
from gru_mem_jax.tiny import oracle, synthetic
from gru_mem_jax.tiny.sources import SyntheticSuite

ENCODER = ByteEncoder()
CONFIG = AgentConfig(
    chunk_size=300,
    question_tokens=200,
    memory_tokens=400,
    completion_tokens=900,
    prompt_tokens=4000,
    prompt=PromptConfig(style="compact"),
)
NEEDLE = re.compile(r"The code for (\w+) is (\w+ \w+ \w+)\.")


def blocks_of(example, size):
    """The example on a document whose blocks have `size` bytes: none is split."""
    text, spans, starts = [], [], []
    sentences = re.findall(r"[^.]*\.", example.document)
    length = 0
    for sentence in sentences:
        sentence = sentence.strip()
        room = size - length % size
        if len(sentence) + 1 > room:
            text.append(" " * room)
            length += room
        starts.append((sentence, length))
        text.append(sentence + " ")
        length += len(sentence) + 1
    gold = {example.document[a:b] for a, b in example.evidence}
    spans = tuple((s, s + len(t)) for t, s in starts if t in gold)
    return Example(
        id=example.id,
        question=example.question,
        answers=example.answers,
        document="".join(text),
        evidence=spans,
        task=example.task,
        scoring=example.scoring,
    )


def oracle_generator(**kwargs):
    """Reads each prompt as an ideal policy would; memory holds the sentences found."""

    def say(request):
        shown = said_in(request, ENCODER)
        asked = oracle.parse_question(shown["question"].strip())
        found = NEEDLE.findall(shown["memory"])
        if "chunk" not in shown:
            return oracle.answer_turn(asked, found)
        new = [f for f in NEEDLE.findall(shown["chunk"]) if f[0] in asked.keys]
        memory = " ".join(f"The code for {k} is {v}." for k, v in (*found, *new))
        if "<rewrite>" in shown["control"]:
            return memory or "none"
        end = oracle.is_complete(asked, (*found, *new))
        return (
            f"<think>t</think><check>{'yes' if new else 'no'}</check>"
            f"<update>{memory if new else ''}</update>"
            f"<next>{'end' if end else 'continue'}</next>"
        )

    return ScriptedGenerator(say, ENCODER, **kwargs)


def question_sets(tasks=("single_key", "multi_query"), questions=4):
    config = SyntheticSuite(
        tasks=tasks, contexts=(("uniform", 8),), num_questions=questions
    )
    for item in config.question_sets():
        yield suite.QuestionSet(
            task=item.task,
            evidence=item.evidence,
            num_chunks=item.num_chunks,
            examples=tuple(blocks_of(e, CONFIG.chunk_size) for e in item.examples),
        )


@pytest.fixture(scope="module")
def results():
    generator = oracle_generator(capacity=3, shuffle_seed=1)
    turns = []
    sets = list(question_sets())
    done = run.evaluate(
        generator, ENCODER, CONFIG, sets, suite.MODES, on_turn=lambda: turns.append(1)
    )
    assert len(turns) <= run.count_turns(sets, suite.MODES) * 2  # padded blocks
    assert len(turns) == sum(len(t.turns) for r in done for t in r.trajectories)
    return done


def test_an_oracle_has_perfect_figures(results):
    rows = suite.table_rows(results, mix=("single_key", "multi_query"))
    assert [(r["mode"], r["task"]) for r in rows] == [
        (mode, task)
        for mode in suite.MODES
        for task in ("all", "single_key", "multi_query")
    ]
    for row in rows:
        assert row["exact"] == 1.0
        assert row["well_formed"] == 1.0
        if row["mode"] != "memagent":
            assert row["update_on_evidence"] == row["update_off_evidence"] == 1.0
        if row["mode"] == "with_exit_gate":
            assert row["exact_exit"] == 1.0
            assert row["chunks_read"] < 1.0
        else:
            assert row["chunks_read"] == 1.0
    mix = rows[0]
    assert mix["num_questions"] == 8
    assert mix["seconds"] == pytest.approx(rows[1]["seconds"] + rows[2]["seconds"])


def test_sets_that_run_together_share_the_time(results):
    """The same answers, one run for each mode, its wall-clock divided."""
    groups, sets = [], list(question_sets(("single_key", "multi_query", "chain")))
    begun = time.perf_counter()
    together = run.evaluate(
        oracle_generator(capacity=3, shuffle_seed=1),
        ENCODER,
        CONFIG,
        sets,
        suite.MODES,
        on_sets=lambda group, mode: groups.append([s.task for s in group]),
        together=("single_key", "multi_query"),
    )
    passed = time.perf_counter() - begun
    assert groups == [["single_key", "multi_query"], ["chain"]] * 3
    assert [r.questions.task for r in together[:3]] == [s.task for s in sets]
    alone = {(r.mode, r.questions.task): r for r in results}
    for result in together:
        assert 0 < result.seconds < passed
        other = alone.get((result.mode, result.questions.task))
        if other is not None:
            assert result.outcomes == other.outcomes
    assert sum(result.seconds for result in together) < passed


def test_pages(results, tmp_path):
    rows = run.write_pages(
        tmp_path,
        results,
        mix=("single_key",),
        title="A <title>",
        notes=["One & two"],
        extra={"seconds_total": 1.5},
    )
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved == {"seconds_total": 1.5, "rows": rows}
    for name in ("memory.png", "trace.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "A &lt;title&gt;" in page
    assert "One &amp; two" in page
    assert base64.b64encode((tmp_path / "memory.png").read_bytes()).decode() in page
    assert '<td class="text">with_exit_gate</td>' in page


def test_what_policies_and_documents_say_is_escaped(results, tmp_path):
    import dataclasses

    attack = "</script><script>alert(1)</script>"
    first = next(run._pairs(results[-1]))
    turns = tuple(
        dataclasses.replace(turn, memory=attack) for turn in first.trajectory.turns
    )
    sample = dataclasses.replace(
        first,
        trajectory=dataclasses.replace(first.trajectory, answer=attack, turns=turns),
        example=dataclasses.replace(first.example, question=attack),
    )
    page = tmp_path / "page.html"
    write_report(
        page, title=attack, notes=[attack], rows=[], figures=[], samples=[sample]
    )
    assert "<script" not in page.read_text()


def test_the_table_has_a_line_per_row(results):
    from rich.console import Console

    console = Console(width=200, no_color=True)
    rows = suite.table_rows(results, mix=("single_key",))
    with console.capture() as capture:
        console.print(rich_table(rows))
    text = capture.get()
    assert text.count("multi_query") == 3
    assert "100.0" in text


def test_no_number_is_a_dash(tmp_path):
    from gru_mem_jax.evaluation.report import format_cell

    assert format_cell(None, "percent") == "–"
    assert format_cell(0.5, "percent") == "50.0"
    assert format_cell(12, "count") == "12"


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
    assert {len(item.examples) for item in first} == {3}
    assert [item.task for item in first] == list(synthetic.TASKS)
