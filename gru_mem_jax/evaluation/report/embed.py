"""The trajectories of a page: which, and in blocks that the browser unpacks.

A block is JSON, deflated (zlib's form) and written in base64. There is one for each
question's document and one for each trajectory, so that only what is looked at is
unpacked.
"""

import base64
import dataclasses
import json
import zlib
from typing import Any

from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.evaluation.records import AskedQuestion, QuestionKey, ScoredAnswer
from gru_mem_jax.evaluation.report.collect import Collected, Sample
from gru_mem_jax.evaluation.report.words import context_title

_AROUND = 64  # characters of the page around a block
_MOST_READ = 20_000  # trajectories that are looked at; what is left out is counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded:
    """What the page's script reads.

    Attributes:
      index: an object for each trajectory, in the order of the tables.
      blocks: base64; `index` refers to them by number.
      left_out: number of trajectories for which the page has no room.
    """

    index: tuple[dict[str, Any], ...]
    blocks: tuple[str, ...]
    left_out: int


def embed(collected: Collected, most_bytes: int) -> Embedded:
    """Packs trajectories until a page's room is used, wrong ones first.

    Args:
      collected: what the page shows.
      most_bytes: of the page, for all of them together.
    """
    chosen = sorted(range(len(collected.samples)), key=_order(collected.samples))
    wanted = {
        (collected.samples[i].folder, collected.samples[i].key): i
        for i in chosen[:_MOST_READ]
    }
    packed: dict[int, str] = {}
    for number, key, trajectory in collected.trajectories():
        i = wanted.get((number, key))
        if i is not None and i not in packed:
            packed[i] = pack(_trajectory(trajectory))
    blocks: list[str] = []
    documents: dict[tuple[int, QuestionKey], int] = {}
    entries: dict[int, dict[str, Any]] = {}
    left_out, room = 0, most_bytes
    for i in chosen:
        sample = collected.samples[i]
        if i not in packed:
            if sample.answer.failed is not None:  # nothing was read: it has no block
                entries[i] = _entry(sample, None, None)
            continue
        place = (sample.folder, sample.question.key)
        new = [packed[i]]
        if place not in documents and sample.question.chunks:
            new.append(pack(_document(sample.question)))
        block = len(blocks)
        document = block + 1 if len(new) > 1 else documents.get(place)
        entry = _entry(sample, block, document)
        size = len(script_json(entry)) + 1
        size += sum(len(each) + _AROUND for each in new)
        if size > room:
            left_out += 1
            continue
        room -= size
        if document is not None:
            documents[place] = document
        blocks += new
        entries[i] = entry
    return Embedded(
        index=tuple(entries[i] for i in sorted(entries)),
        blocks=tuple(blocks),
        left_out=left_out,
    )


def pack(value: Any) -> str:
    """A JSON value as a block."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    raw = text.encode("utf-8", "surrogatepass")  # the browser shows U+FFFD
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def script_json(value: Any) -> str:
    """JSON that can stand in a script element, whatever its texts are."""
    text = json.dumps(value, separators=(",", ":"))  # of ASCII alone
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _order(samples: tuple[Sample, ...]) -> Any:
    """Sorts numbers of samples: by how wrong, then a first of each kind, a second..."""
    seen: dict[object, int] = {}
    keys = []
    for sample in samples:
        answer = sample.answer
        fine = answer.exit in (None, "exact") and not wrong_updates(answer)
        grade = 0 if answer.score < 1 else 1 + fine
        kind = (grade, answer.policy, answer.mode, answer.set, str(answer.labels))
        seen[kind] = seen.get(kind, -1) + 1
        keys.append((grade, seen[kind]))
    return lambda i: (*keys[i], i)


def wrong_updates(answer: ScoredAnswer) -> int | None:
    """Chunks at which the update gate was wrong; None where that is not known."""
    counts = [c for c in (answer.updates_on, answer.updates_off) if c is not None]
    return sum(all_ - right for right, all_ in counts) if counts else None


def exit_distance(question: AskedQuestion, answer: ScoredAnswer) -> int | None:
    """Chunks read after the last evidence, negative: left out; None: not known."""
    if answer.exit is None or not question.evidence_chunks:
        return None
    return answer.chunks_read - 1 - max(question.evidence_chunks)


def _entry(sample: Sample, block: int | None, document: int | None) -> dict[str, Any]:
    question, answer = sample.question, sample.answer
    twin = question.metadata.get("twin")  # of a question with an attack
    return {
        "id": sample.id,
        "folder": sample.folder,
        "policy": answer.policy,
        "mode": answer.mode,
        "set": answer.set,
        "context": context_title(answer.labels),
        "number": answer.index + 1,
        "name": question.id,
        "twin": twin if isinstance(twin, str) else None,
        "question": question.question,
        "gold": list(question.answers),
        "answer": answer.answer,
        "score": answer.score,
        "scoring": question.scoring,
        "failed": answer.failed,
        "exit": answer.exit,
        "distance": exit_distance(question, answer),
        "wrongUpdates": wrong_updates(answer),
        "wellFormed": answer.well_formed,
        "stop": answer.stop_reason,
        "read": answer.chunks_read,
        "turns": answer.turns,
        "passes": answer.passes,
        "chunks": question.num_chunks,
        "evidence": list(question.evidence_chunks),
        "captured": answer.captured,
        "retained": answer.retained,
        "seconds": round(answer.seconds, 3),
        "tokensIn": answer.prompt_tokens,
        "tokensOut": answer.completion_tokens,
        "block": block,
        "document": document,
    }


def _document(question: AskedQuestion) -> list[Any]:
    return [{"span": chunk.span, "runs": chunk.runs} for chunk in question.chunks]


def _trajectory(trajectory: Trajectory) -> list[dict[str, Any]]:
    records = [_turn(turn) for turn in trajectory.turns]
    if all(turn.step != "scan" for turn in trajectory.turns):
        return records  # each turn sees what the one before it left
    seen = ""
    for record, turn in zip(records, trajectory.turns, strict=True):
        if turn.memory_before != seen:
            record["before"] = turn.memory_before
        seen = turn.memory_before if turn.step == "scan" else turn.memory
        if turn.accepted:
            record["merged"] = True
    return records


def _turn(turn: Turn) -> dict[str, Any]:
    """Without what the page can tell itself: the memory, where it stays."""
    record = {
        "chunk": turn.chunk,
        "text": turn.text,
        "tokens": turn.memory_tokens,
        "out": turn.completion_tokens,
        "in": turn.prompt_tokens,
        "shared": turn.shared_prompt_tokens,
        "seconds": round(turn.seconds, 3),
    }
    if turn.kind == "memory":
        record |= {"update": bool(turn.update), "exit": bool(turn.exit)}
        if turn.update_probability is not None:
            record["updateProbability"] = round(turn.update_probability, 4)
        if turn.exit_probability is not None:
            record["exitProbability"] = round(turn.exit_probability, 4)
        if turn.pass_number > 1:
            record["pass"] = turn.pass_number
        if turn.step != "read":
            record["step"] = turn.step
    if turn.memory != turn.memory_before:
        record["memory"] = turn.memory
    if not turn.well_formed:
        record["problem"] = turn.problem or "malformed"
    if turn.memory_cut:
        record["cut"] = True
    if turn.finish_reason == "length":
        record["long"] = True
    return record
