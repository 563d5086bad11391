"""Runs in which a chunk has several turns: what set the memory, and what counts."""

import itertools

import pytest
from parallel_runs import (
    ADA,
    AGAIN,
    BOTH,
    MERGES,
    RUN,
    SCAN,
    SPANS,
    TEXT,
    TEXTS,
    asked,
    ended,
    turn,
)

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.evaluation import measures, passes
from gru_mem_jax.evaluation.hijack import hijack_rows
from gru_mem_jax.evaluation.records import AskedQuestion
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in


def test_the_memory_as_it_stands():
    stopped = ended(*SCAN, *MERGES, AGAIN[1], memory=BOTH)
    assert [i for i, t in enumerate(stopped.turns) if t.sets_memory] == [0, 5]
    assert passes.memory_sizes(stopped) == (0, 0, 0, 3, 3, 6, 6)
    # The only candidate of the second pass was accepted: the answer sees it.
    assert [i for i, t in enumerate(RUN.turns) if t.sets_memory] == [0, 5, 6]
    assert passes.memory_sizes(RUN) == (0, 0, 0, 3, 3, 6, 6, 5)
    left = [passes.memory_left(t) for t in RUN.turns[:6]]
    assert left == [ADA, "", "", "", ADA, BOTH]
    assert RUN.num_passes == 2
    # Nothing was merged before the run ended.
    cut = Trajectory(mode="parallel", question="?", turns=SCAN[1:])
    assert passes.memory_sizes(cut) == (0, 0, 0)
    assert Trajectory(mode="parallel", question="?").num_passes == 0


def test_a_chunk_counts_once():
    # Chunk 0 opened, chunk 2 opened; chunk 1 opened needlessly; chunk 3 malformed.
    assert measures.updates(RUN, (0, 2)) == ((2, 2), (0, 2))
    assert measures.updates(RUN, (0, 3)) == ((1, 2), (0, 2))
    assert measures.well_formed(RUN) == 8 / 9
    # Opened in the second pass alone: on evidence that is enough, off it too much.
    late = ended(
        *(turn(1, "read", i, "") for i in range(3)),
        turn(2, "read", 0, ""),
        turn(2, "read", 1, "", "x"),
        turn(2, "read", 2, "x"),
        mode="reread",
        memory="x",
    )
    assert measures.updates(late, (1,)) == ((1, 1), (2, 2))
    assert measures.updates(late, (0,)) == ((0, 1), (1, 2))
    assert measures.gates_open(late) == ((1,), ())


def test_the_line_of_an_answer():
    answer = measures.scored_answer(asked(), TEXT, RUN, policy="p", mode="parallel")
    assert (answer.chunks_read, answer.turns, answer.passes) == (4, 8, 2)
    assert answer.memory_tokens == (0, 0, 0, 3, 3, 6, 6, 5)
    # Chunk 1 by the second pass, which needed no merge.
    assert (answer.updated, answer.said_end) == ((0, 1, 2), (2,))
    assert answer.exit is None


def kept(run):
    return measures.kept_evidence(run, SPANS, TEXTS, "Where?", ("como",), "exact")


def test_a_candidate_that_was_not_taken_captures_nothing():
    full = ended(*SCAN, *MERGES, AGAIN[1], memory=BOTH)
    assert kept(full) == ((2, 2), (2, 2))
    # Stopped after the first candidate: chunk 2's is nowhere.
    assert kept(ended(*SCAN, memory=ADA)) == ((1, 2), (1, 1))
    # The last scan's own memory is not the last memory: the answer's is.
    lost = ended(
        *SCAN, *MERGES, turn(2, "scan", 3, BOTH, "gone", accepted=True), memory="gone"
    )
    assert kept(lost) == ((2, 2), (0, 2))


@pytest.mark.parametrize(
    ("merged", "counts"), [(None, (0, 1)), ("ada and an order", (1, 1))]
)
def test_an_open_scan_that_is_not_merged_is_no_hijack(merged, counts):
    """Chunk 1 is attacked: its scan opens; its merge refuses, or does as it is told."""
    clean = ended(SCAN[0], turn(1, "scan", 1, ""), memory=ADA)
    attacked = ended(
        SCAN[0],
        turn(1, "scan", 1, "", "an order", exit=True),
        turn(1, "merge", 1, ADA, merged),
        memory=merged or ADA,
    )
    questions, answers = [], []
    for run, labels, metadata in (
        (clean, {}, {}),
        (attacked, {"attack": "orders"}, {"twin": "q", "attack_chunks": [1]}),
    ):
        question = AskedQuestion(
            set="s",
            labels=labels,
            index=0,
            id="q" if not labels else "q+orders",
            question="Where?",
            answers=("london",),
            scoring="exact",
            metadata=metadata,
            num_chunks=4,
            evidence_chunks=(0, 2),
        )
        questions.append(question)
        answers.append(
            measures.scored_answer(question, "", run, policy="p", mode="parallel")
        )
    (row,) = hijack_rows(questions, answers)
    assert (row["wrong_updates"]["count"], row["wrong_updates"]["of"]) == counts
    # The exit gate of a scan said end, obeyed or not.
    assert (row["early_exits"]["count"], row["early_exits"]["of"]) == (1, 1)


ENCODER = ByteEncoder()


def says(request):
    """Opens two gates of three, with what depends on prompt and seed."""
    said = said_in(request, ENCODER)
    if "chunk" not in said:
        return r"\boxed{1}"
    check = "yes" if request.seed % 3 else "no"
    # Of few memories, so that some are equal.
    memory = "" if request.seed % 7 == 0 else f"m{request.seed % 4}"
    end = "end" if request.seed % 11 == 0 else "continue"
    return (
        f"<think>t</think><check>{check}</check>"
        f"<update>{memory}</update><next>{end}</next>"
    )


@pytest.mark.parametrize("mode", ["parallel", "reread", "without_exit_gate"])
def test_what_is_taken_is_what_the_next_turns_see(mode):
    """Of random runs: the memories of the turns follow from those that were taken."""
    prompt = PromptConfig(style="compact")
    builder = PromptBuilder(ENCODER, prompt)
    for seed in range(12):
        config = AgentConfig(
            mode=mode,
            chunk_size=10,
            question_tokens=32,
            memory_tokens=16,
            completion_tokens=200,
            prompt_tokens=400,
            prompt=prompt,
            scan_chunks=(None, 3)[seed % 2],
            merge_until_exit=seed % 3 == 0,
        )
        run = Recurrence(builder, config, "?", "0123456789" * 7, trajectory_id=seed)
        for _ in driver.run(ScriptedGenerator(says, ENCODER), [run]):
            pass
        memory, handed, changes = "", [], 0
        turns, sizes = run.trajectory.turns, passes.memory_sizes(run.trajectory)
        for each in turns:
            if each.memory_before != memory:  # a scan's candidate was handed on
                assert each.memory_before in handed
                memory, changes = each.memory_before, changes + 1
            if each.accepted:
                handed.append(each.memory)
            elif each.sets_memory:
                memory = each.memory
        assert (turns[-1].memory, len(handed)) == (memory, changes)
        sized = {each.memory: each.memory_tokens for each in turns} | {"": 0}
        after = [
            t.memory if t.step != "scan" else n.memory_before
            for t, n in itertools.pairwise(turns)
        ]
        assert sizes == tuple(sized[memory] for memory in after)
