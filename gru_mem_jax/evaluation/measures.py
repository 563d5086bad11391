"""What one trajectory did, against the labels of its question: plain numbers.

The rules are those of training (`rl.outcomes`, `rl.summary`), a question at a time; a
chunk that had several turns (`evaluation.passes`) counts once.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from gru_mem_jax.agent.config import MODES
from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.data.scoring import normalize_answer, score
from gru_mem_jax.evaluation.passes import (
    memory_left,
    memory_sizes,
)
from gru_mem_jax.evaluation.records import AskedQuestion, ScoredAnswer

ExitKind = Literal["exact", "early", "late"]
Count = tuple[int, int]

GATED = tuple(mode for mode in MODES if mode != "memagent")
# Scorings whose gold answers are each the whole answer, as a text.
_OF_TEXT = ("exact", "f1", "hotpotqa_f1", "boxed", "equivalent")
# Letters of scripts that part words by white space.
_LETTER = r"[0-9a-z\u00aa-\u1fff]"
# Scorings that ask for all gold answers; in the others they are spellings of one.
_OF_SEVERAL = ("all", "part")
_WORDS = """
about after all also am an and any are as at be been before but by can could did do does
for from had has have he her him his how i if in into is it its may more most my no not
of on one or other our she so some such than that their them then there these they this
to under was we were what when where which who whom whose why will with would yes you
your
"""
_FUNCTION_WORDS = frozenset(_WORDS.split())


def scored_answer(
    question: AskedQuestion,
    document: str,
    trajectory: Trajectory | None,
    *,
    failed: str | None = None,
    policy: str,
    mode: str,
) -> ScoredAnswer:
    """The line of an answer, without what the trajectory does not know: its times.

    Args:
      question: with its labels.
      document: the text that it is on.
      trajectory: None: it could not be begun.
      failed: why there is no answer; its score is 0, and nothing else is measured.
      policy, mode: names.
    """
    said = trajectory or Trajectory(mode=mode, question=question.question)
    answer = ScoredAnswer(
        policy=policy,
        mode=mode,
        set=question.set,
        labels=question.labels,
        index=question.index,
        id=question.id,
        score=0.0,
        failed=failed,
        answer=said.answer,
        seconds=said.seconds,
        stop_reason=said.stop_reason,
        chunks_read=said.num_chunks,
        turns=len(said.memory_turns),
        passes=said.num_passes,
        prompt_tokens=said.prompt_tokens,
        completion_tokens=said.completion_tokens,
        shared_prompt_tokens=said.shared_prompt_tokens,
        memory_tokens=memory_sizes(said),
    )
    if failed is not None:
        return answer
    updated = said_end = None
    if said.mode in GATED:
        updated, said_end = gates_open(said)
    on, off = updates(said, question.evidence_chunks) or (None, None)
    texts = [document[start:end] for start, end in question.evidence]
    captured, retained = kept_evidence(
        said,
        question.evidence,
        texts,
        question.question,
        question.answers,
        question.scoring,
    ) or (None, None)
    return dataclasses.replace(
        answer,
        score=score(said.answer, question.answers, question.scoring),
        scores=answer_scores(said.answer, question.answers, question.scoring),
        exit=exit_kind(said, max(question.evidence_chunks, default=None)),
        updates_on=on,
        updates_off=off,
        updated=updated,
        said_end=said_end,
        well_formed=well_formed(said),
        captured=captured,
        retained=retained,
    )


def answer_scores(
    answer: str | None, answers: Sequence[str], scoring: str
) -> dict[str, float]:
    """Exact match and F1, where one gold answer is the whole answer.

    F1 is HotpotQA's where that is the scoring, else SQuAD's.
    """
    if scoring not in _OF_TEXT:
        return {}
    own_f1 = scoring if scoring == "hotpotqa_f1" else "f1"
    return {
        "exact": score(answer, answers, "exact"),
        "f1": score(answer, answers, own_f1),
    }


def exit_kind(trajectory: Trajectory, last_evidence: int | None) -> ExitKind | None:
    """Where reading ended, against the last chunk with evidence.

    Args:
      trajectory: one that has ended.
      last_evidence: index of the chunk; None: nothing is labelled.

    Returns:
      None where the mode has no exit gate, or nothing is labelled.
    """
    if trajectory.mode != "with_exit_gate" or last_evidence is None:
        return None
    ended = max((turn.chunk or 0 for turn in trajectory.memory_turns), default=-1)
    if ended == last_evidence:
        return "exact"
    return "early" if ended < last_evidence else "late"


def gates_open(trajectory: Trajectory) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunks at which the memory was replaced, and at which the exit gate said end.

    Each chunk once, in order. A scan whose gate is open replaces the memory only where
    its candidate was accepted. The exit gate counts in the first pass: in a later one
    all that is needed may be known before the chunk.
    """
    turns = trajectory.memory_turns
    replaced = {turn.chunk or 0 for turn in turns if turn.sets_memory}
    ends = {turn.chunk or 0 for turn in turns if turn.exit and turn.pass_number == 1}
    return tuple(sorted(replaced)), tuple(sorted(ends))


def updates(
    trajectory: Trajectory, evidence_chunks: Sequence[int]
) -> tuple[Count, Count] | None:
    """(right, all) chunks read that have evidence, and of the others.

    A chunk with evidence is right if the update gate of a well-formed turn on it is
    open; another, if all its turns are well formed and none's gate is open. Where each
    chunk has one turn, that is the share of right turns.

    Args:
      trajectory: any.
      evidence_chunks: indices of the chunks with evidence.

    Returns:
      None where the mode has no update gate, or nothing is labelled.
    """
    if trajectory.mode not in GATED or not evidence_chunks:
        return None
    by_chunk: dict[int | None, list[Turn]] = {}
    for turn in trajectory.memory_turns:
        by_chunk.setdefault(turn.chunk, []).append(turn)
    on: list[bool] = []
    off: list[bool] = []
    labelled = set(evidence_chunks)
    for chunk, turns in by_chunk.items():
        if chunk in labelled:
            on.append(any(turn.well_formed and turn.update for turn in turns))
        else:
            off.append(all(turn.well_formed and not turn.update for turn in turns))
    return (sum(on), len(on)), (sum(off), len(off))


def well_formed(trajectory: Trajectory) -> float | None:
    """Share of the turns that are well formed; None where the mode has no gates."""
    if trajectory.mode not in GATED or not trajectory.turns:
        return None
    return sum(turn.well_formed for turn in trajectory.turns) / len(trajectory.turns)


def kept_evidence(
    trajectory: Trajectory,
    spans: Sequence[tuple[int, int]],
    texts: Sequence[str],
    question: str,
    answers: Sequence[str],
    scoring: str,
) -> tuple[Count, Count] | None:
    """Capture and retention of the evidence.

    A span is *captured* if the memory `holds` it after a turn that read the chunk with
    the span's end, and *retained* if the last memory, that of the answer, holds it too.
    A span that was not read is not captured, nor is one that stands in nothing but a
    scan's candidate that was not taken.

    Args:
      trajectory: one that has ended.
      spans: (start, end) of each piece of evidence, in characters of the document.
      texts: of each.
      question, answers, scoring: of the example.

    Returns:
      ((captured, all), (retained, captured)); None where nothing is labelled or the
      mode has no memory.
    """
    if not spans or trajectory.mode not in MODES:
        return None
    read = [(turn, memory_left(turn)) for turn in trajectory.memory_turns]
    last = read[-1][1] if read else ""
    if trajectory.turns and trajectory.turns[-1].kind == "answer":
        last = trajectory.turns[-1].memory
    captured = retained = 0
    for (_, end), text in zip(spans, texts, strict=True):
        if any(
            holds(memory, text, question, answers, scoring)
            for turn, memory in read
            if _has(turn, end)
        ):
            captured += 1
            retained += holds(last, text, question, answers, scoring)
    return (captured, len(spans)), (retained, captured)


def _has(turn: Turn, end: int) -> bool:
    """Whether a turn read the character before `end`."""
    span = turn.chunk_span
    return span is not None and span[0] < end <= span[1]


def holds(
    memory: str, text: str, question: str, answers: Sequence[str], scoring: str
) -> bool:
    """Whether a memory has what a piece of evidence says.

    After SQuAD's normalisation (case, punctuation, articles), by the first that
    applies:

    1. the memory has the whole piece;
    2. gold answers stand in the piece, other than yes, no and the like: the memory has
       one of these; each of them, where the scoring asks for all answers;
    3. the memory has more than half of the words of the piece that carry its meaning:
       no function words, and none of the question's, which stand in any memory. If
       none is left, of all its words.

    Rule 2 is for pieces with an answer, rule 3 for those that only lead to one. Words
    are compared whole; a paraphrase in other words is not found.

    Args:
      memory: text of a memory.
      text: of the piece of evidence.
      question, answers, scoring: of the example.
    """
    said, piece = normalize_answer(memory), normalize_answer(text)
    if not said or not piece:
        return False
    if _occurs(piece, said):
        return True
    gold = [
        answer
        for answer in map(normalize_answer, answers)
        if not _FUNCTION_WORDS.issuperset(answer.split()) and _occurs(answer, piece)
    ]
    if gold:
        enough = all if scoring in _OF_SEVERAL else any
        return enough(_occurs(answer, said) for answer in gold)
    words = set(piece.split())
    telling = words.difference(_FUNCTION_WORDS, normalize_answer(question).split())
    telling = telling or words
    return 2 * sum(_occurs(word, said) for word in telling) > len(telling)


def _occurs(needle: str, text: str) -> bool:
    """Whether a text has another, not within a longer word."""
    if needle not in text:
        return False
    before = rf"(?<!{_LETTER})" if re.match(_LETTER, needle) else ""
    after = rf"(?!{_LETTER})" if re.match(_LETTER, needle[-1]) else ""
    return re.search(before + re.escape(needle) + after, text) is not None
