"""A parallel run by hand, turn by turn, and a folder of results that holds it."""

import dataclasses

from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.evaluation import measures
from gru_mem_jax.evaluation.excerpts import chunk_texts
from gru_mem_jax.evaluation.folder import ResultsWriter
from gru_mem_jax.evaluation.records import AskedQuestion, Manifest

# Four chunks of ten characters; the spans of evidence fill chunks 0 and 2.
SPANS, TEXTS = ((0, 10), (20, 30)), ("ada london", "notes como")
TEXT = f"{TEXTS[0]}it rained.{TEXTS[1]}all day..."


def turn(
    place, step, chunk, before, memory=None, *, exit=False, formed=True, accepted=False
):
    """A memory turn; `memory`: that it would leave, None: its gate is shut."""
    left = before if memory is None else memory
    return Turn(
        kind="memory",
        chunk=chunk,
        chunk_span=(10 * chunk, 10 * chunk + 10),
        pass_number=place,
        step=step,
        update=memory is not None,
        exit=exit,
        accepted=accepted,
        well_formed=formed,
        memory_before=before,
        memory=left,
        memory_tokens=len(left.split()),
        text="",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        seconds=0.0,
    )


def ended(*turns, mode="parallel", memory="", **settings):
    """The run of these turns, answered from a memory."""
    last = turn(1, "read", 0, memory)
    gone = dict.fromkeys(("chunk", "chunk_span", "update", "exit"))
    last = dataclasses.replace(last, kind="answer", **gone)
    return Trajectory(
        mode=mode, question="Where?", turns=(*turns, last), settings=settings
    )


ADA, BOTH = "ada in london", "ada in london and notes como"
SCAN = (
    turn(1, "scan", 0, "", ADA, accepted=True),
    turn(1, "scan", 1, "", "nonsense"),  # its gate opens, and its merge refuses
    turn(1, "scan", 2, "", "notes como", exit=True),
    turn(1, "scan", 3, ""),
)
# The first candidate is taken as it is; chunk 1 and 2 are read again.
MERGES = (turn(1, "merge", 1, ADA), turn(1, "merge", 2, ADA, BOTH))
AGAIN = (
    turn(2, "scan", 1, BOTH, "what is written at last", accepted=True),
    turn(2, "scan", 3, BOTH, formed=False, exit=True),
)
RUN = ended(*SCAN, *MERGES, *AGAIN, memory=AGAIN[0].memory)


def asked():
    """The question of the run."""
    borders = [(start, start + 10) for start in range(0, 40, 10)]
    return AskedQuestion(
        set="s",
        labels={"num_chunks": 4},
        index=0,
        id="q",
        question="Where?",
        answers=("como",),
        scoring="exact",
        num_chunks=4,
        evidence=SPANS,
        evidence_chunks=(0, 2),
        chunks=chunk_texts(TEXT, borders, SPANS),
    )


def results_folder(path, runs):
    """A folder of the question, answered by these runs of different modes."""
    modes = tuple(run.mode for run in runs)
    manifest = Manifest(title="Made up", policies={"p": "/x"}, modes=modes)
    with ResultsWriter(path, manifest) as writer:
        writer.write_question(asked())
        for number, run in enumerate(runs, 1):
            answer = measures.scored_answer(
                asked(), TEXT, run, policy="p", mode=run.mode
            )
            answer = dataclasses.replace(answer, seconds_alone=float(number))
            writer.write_answer(answer, run)
    return path
