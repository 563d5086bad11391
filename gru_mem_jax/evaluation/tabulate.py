"""The table of an evaluation, from one folder of results or from several.

A row is a set of questions in one mode, by one policy or by all of them; `runs.columns`
says what its columns are.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.agent.config import MODES
from gru_mem_jax.evaluation import statistics
from gru_mem_jax.evaluation.folder import ResultsFolder
from gru_mem_jax.evaluation.hijack import hijack_rows
from gru_mem_jax.evaluation.naming import policy_names, questions_of
from gru_mem_jax.evaluation.records import QuestionKey, ScoredAnswer, labels_text
from gru_mem_jax.evaluation.suite import LABELS
from gru_mem_jax.records import to_record

MIX = "mix"  # the sets of one kind of context together
ALL = "all"  # the mixes of all kinds of context together
MEAN = "mean"  # over policies
LATENCY_BASE = "without_exit_gate"  # the mode that others' latency is compared with

Row = dict[str, Any]
_Answers = dict[QuestionKey, ScoredAnswer]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Asked:
    """Some folders on the same questions.

    Attributes:
      sets: (name, labels, whether it is in the mix) of each, in the order of the table.
      modes: in the order of the table.
      answers: by policy and mode.
      num_chunks: of each question's document.
    """

    sets: tuple[tuple[str, dict[str, str | int], bool], ...]
    modes: tuple[str, ...]
    answers: dict[tuple[str, str], _Answers]
    num_chunks: dict[QuestionKey, int]

    @property
    def policies(self) -> list[str]:
        return list(dict.fromkeys(policy for policy, _ in self.answers))


def results(
    folders: Sequence[ResultsFolder], *, averaged: bool = True
) -> dict[str, Any]:
    """All of results.json: rows, comparisons between modes, and what was measured.

    Args:
      folders: at least one.
      averaged: policies that were asked the same questions are averaged, as seeds of
        one training; else they are compared, as its stages.
    """
    asked = _grouped(folders)
    rows = [row for each in asked for row in _rows(each, averaged)]
    modes = dict.fromkeys(mode for each in asked for mode in each.modes)
    return {
        "policies": [policy for each in asked for policy in each.policies],
        "modes": list(modes),
        "rows": rows,
        "comparisons": [
            each for group in asked for each in _comparisons(group, averaged)
        ],
        "attacks": [
            row
            for folder in folders
            for row in hijack_rows(folder.questions(), folder.answers())
        ],
    }


def table_rows(folders: Sequence[ResultsFolder], *, averaged: bool = True) -> list[Row]:
    """The rows alone."""
    return [row for each in _grouped(folders) for row in _rows(each, averaged)]


def _grouped(folders: Sequence[ResultsFolder]) -> list[_Asked]:
    """Folders on the same questions together, as more policies."""
    groups: dict[str, list[ResultsFolder]] = {}
    for folder in folders:
        groups.setdefault(questions_of(folder), []).append(folder)
    return [_combined(group) for group in groups.values()]


def _combined(folders: Sequence[ResultsFolder]) -> _Asked:
    answers: dict[tuple[str, str], _Answers] = {}
    num_chunks: dict[QuestionKey, int] = {}
    found: dict[tuple[str, str], tuple[str, dict[str, str | int], bool]] = {}
    for folder, names in zip(folders, policy_names(folders), strict=True):
        for each in _sets(folder):
            found.setdefault((each[0], labels_text(each[1])), each)
        num_chunks |= {each.key: each.num_chunks for each in folder.questions()}
        for answer in folder.answers():
            name = names.get(answer.policy, answer.policy)
            answers.setdefault((name, answer.mode), {})[answer.key[2:]] = answer
            own = (answer.set, answer.labels, True)
            found.setdefault((answer.set, labels_text(answer.labels)), own)
    modes = dict.fromkeys(mode for f in folders for mode in f.manifest.modes)
    return _Asked(
        sets=tuple(found.values()),
        modes=tuple(modes),
        answers=answers,
        num_chunks=num_chunks,
    )


def _sets(
    folder: ResultsFolder,
) -> Iterable[tuple[str, dict[str, str | int], bool]]:
    """The sets that a manifest names; what is no set is passed over."""
    named = folder.manifest.settings.get("sets")
    for each in named if isinstance(named, list) else ():
        if isinstance(each, dict) and isinstance(each.get("labels"), dict):
            yield str(each.get("set")), each["labels"], each.get("in_mix") is not False


def _rows(asked: _Asked, averaged: bool = True) -> list[Row]:
    rows = []
    for name, labels, members in _parts(asked):
        for policy in asked.policies:
            for mode in asked.modes:
                answers = asked.answers.get((policy, mode), {})
                own = [a for a in answers.values() if _of(a) in members]
                if own:
                    head = {"policy": policy, "set": name, "mode": mode, **labels}
                    rows.append(head | measured(own, asked.num_chunks))
    if averaged and len(asked.policies) > 1:
        rows += _mean_rows(asked, rows)
    place = {
        (name, labels_text(labels)): number
        for number, (name, labels, _) in enumerate(_parts(asked))
    }
    contexts = dict.fromkeys(labels_text(labels) for _, labels, _ in _parts(asked))
    order = list(contexts)
    policies = [*asked.policies, MEAN]

    def key(row: Row) -> tuple[int, ...]:
        context = labels_text(_labels(row))
        return (
            order.index(context),
            policies.index(row["policy"]),
            asked.modes.index(row["mode"]),
            place[row["set"], context],
        )

    rows.sort(key=key)
    _add_speed_ups(rows)
    return rows


def _of(answer: ScoredAnswer) -> tuple[str, str]:
    return answer.set, labels_text(answer.labels)


def _labels(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in LABELS if name in row}


def _parts(
    asked: _Asked,
) -> list[tuple[str, dict[str, str | int], set[tuple[str, str]]]]:
    """(name, labels, members) of each row of one policy and mode, in order."""
    by_context: dict[str, list[tuple[str, dict[str, str | int], bool]]] = {}
    for each in asked.sets:
        by_context.setdefault(labels_text(each[1]), []).append(each)
    parts: list[tuple[str, dict[str, str | int], set[tuple[str, str]]]] = []
    every: set[tuple[str, str]] = set()
    for context, sets in by_context.items():
        mixed = {(name, context) for name, _, in_mix in sets if in_mix}
        every |= mixed
        if len(mixed) > 1:
            parts.append((MIX, sets[0][1], mixed))
        parts += [(name, labels, {(name, context)}) for name, labels, _ in sets]
    if len(by_context) > 1 and every:
        parts.append((ALL, {}, every))
    return parts


def measured(
    answers: Sequence[ScoredAnswer], num_chunks: Mapping[QuestionKey, int]
) -> Row:
    """The columns of some answers by one policy in one mode.

    Failed questions count in the score, as 0, and in nothing else.
    """
    done = [answer for answer in answers if answer.failed is None]
    scores = [answer.score for answer in answers]
    low, high = statistics.interval(scores)
    exits = [answer.exit for answer in done if answer.exit is not None]
    formed = [a.well_formed for a in done if a.well_formed is not None]
    lengths = [(a, num_chunks.get(a.key[2:], 0)) for a in done if a.mode in MODES]
    sizes = [size for answer in done for size in answer.memory_tokens]
    prompts = sum(answer.prompt_tokens for answer in done)
    on = _share(a.updates_on for a in done)
    off = _share(a.updates_off for a in done)
    row: Row = {
        "num_questions": len(answers),
        "failed": len(answers) - len(done),
        "exact": _mean(scores),
        "exact_low": low,
        "exact_high": high,
        "exact_match": _mean(_named(answers, "exact")),
        "f1": _mean(_named(answers, "f1")),
        "update_on_evidence": on,
        "update_off_evidence": off,
        "balanced_update": None if on is None or off is None else (on + off) / 2,
        **{
            f"{kind}_exit": _mean([each == kind for each in exits])
            for kind in ("exact", "early", "late")
        },
        "well_formed": _mean([share == 1 for share in formed]),
        "capture": _share(a.captured for a in done),
        "retention": _share(a.retained for a in done),
        "chunks_read": _mean([a.chunks_read / n for a, n in lengths if n]),
        "chunks": _mean([a.chunks_read for a, _ in lengths]),
        "turns": _mean([_turns(a) for a, _ in lengths]),
        "passes": _mean([_passes(a) for a, _ in lengths]),
        "memory_tokens": _mean(sizes),
        "longest_memory": max(sizes, default=None),
        "prompt_tokens": _mean([a.prompt_tokens for a in done]),
        "trajectory_tokens": _mean([a.completion_tokens for a in done]),
        "shared_prompt": (
            sum(a.shared_prompt_tokens for a in done) / prompts if prompts else None
        ),
        "seconds": sum(answer.seconds_share for answer in answers),
        "question_seconds": _mean([a.seconds_share for a in done]),
        "alone_seconds": _mean(
            [a.seconds_alone for a in done if a.seconds_alone is not None]
        ),
        "alone_steps": _mean(
            [a.steps_alone for a in done if a.steps_alone is not None]
        ),
    }
    return {name: value for name, value in row.items() if value is not None}


def _turns(answer: ScoredAnswer) -> int:
    return answer.chunks_read if answer.turns is None else answer.turns


def _passes(answer: ScoredAnswer) -> int:
    return min(answer.chunks_read, 1) if answer.passes is None else answer.passes


def with_interval(row: Mapping[str, Any]) -> Row:
    """A row with "interval", the score's in percent as text, if it has one."""
    if "exact_low" not in row or "exact_high" not in row:
        return dict(row)
    low, high = 100 * row["exact_low"], 100 * row["exact_high"]
    return {**row, "interval": f"{low:.0f}–{high:.0f}"}


def _named(answers: Sequence[ScoredAnswer], name: str) -> list[float]:
    """A further score of the answers that have it; 0 of those that failed."""
    if not any(name in answer.scores for answer in answers):
        return []
    known = [answer for answer in answers if answer.failed or name in answer.scores]
    return [answer.scores.get(name, 0.0) for answer in known]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(counts: Iterable[tuple[int, int] | None]) -> float | None:
    known = [count for count in counts if count is not None]
    every = sum(of for _, of in known)
    return sum(how_many for how_many, _ in known) / every if every else None


def _mean_rows(asked: _Asked, rows: Sequence[Row]) -> list[Row]:
    """A row over the policies for each of several rows that differ in the policy.

    Its interval is over the questions, each with its mean score over the policies.
    """
    members = {(n, labels_text(labels)): m for n, labels, m in _parts(asked)}
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        key = (row["mode"], row["set"], labels_text(_labels(row)))
        grouped.setdefault(key, []).append(row)
    made = []
    for (mode, name, context), own in grouped.items():
        if len(own) < 2:
            continue
        head = {"policy": MEAN, "set": name, "mode": mode, **_labels(own[0])}
        columns = [n for n, value in own[0].items() if isinstance(value, int | float)]
        means = {
            column: _mean([row[column] for row in own if column in row])
            for column in columns
            if column not in head
        }
        low, high = statistics.interval(
            list(_scores(asked, asked.policies, mode, members[name, context]).values())
        )
        means |= {"exact_low": low, "exact_high": high}
        means["exact_sd"] = statistics.deviation([row["exact"] for row in own])
        means |= {c: sum(row[c] for row in own) for c in ("failed", "seconds")}
        means["num_questions"] = max(row["num_questions"] for row in own)
        made.append(head | means)
    return made


def _scores(
    asked: _Asked,
    policies: Sequence[str],
    mode: str,
    members: set[tuple[str, str]],
) -> dict[QuestionKey, float]:
    """Scores by question, each its mean over the policies that were asked it."""
    found: dict[QuestionKey, list[float]] = {}
    for policy in policies:
        for key, answer in asked.answers.get((policy, mode), {}).items():
            if key[:2] in members:
                found.setdefault(key, []).append(answer.score)
    return {key: sum(own) / len(own) for key, own in found.items()}


def _add_speed_ups(rows: Sequence[Row]) -> None:
    """How many times faster than another mode a row is, on the same questions."""
    by_mode = {
        (row["policy"], row["set"], labels_text(_labels(row)), row["mode"]): row
        for row in rows
    }
    for row in rows:
        context = row["policy"], row["set"], labels_text(_labels(row))
        for name, column, mode in (
            ("speed_up", "question_seconds", "memagent"),
            ("alone_speed_up", "alone_seconds", "memagent"),
            ("latency_ratio", "alone_seconds", LATENCY_BASE),
        ):
            other = by_mode.get((*context, mode), row)
            if other is not row and row.get(column) and other.get(column):
                row[name] = other[column] / row[column]


def _comparisons(asked: _Asked, averaged: bool) -> list[dict[str, Any]]:
    """Differences of score between each two modes, on the questions of both.

    Where policies are not averaged, also between each two policies in one mode: these
    have "against_policy".
    """
    policies = [([policy], policy) for policy in asked.policies]
    if averaged and len(policies) > 1:
        policies.append((asked.policies, MEAN))
    made = []
    for name, labels, members in _parts(asked):
        scores = {
            (policy, mode): _scores(asked, chosen, mode, members)
            for chosen, policy in policies
            for mode in asked.modes
        }
        for _, policy in policies:
            for against, mode in itertools.combinations(asked.modes, 2):
                found = _difference(scores[policy, mode], scores[policy, against])
                head = {"policy": policy, "set": name, **labels, "mode": mode}
                if found is not None:
                    made.append(head | {"against": against} | found)
        if averaged:
            continue
        for before, policy in itertools.combinations(asked.policies, 2):
            for mode in asked.modes:
                found = _difference(scores[policy, mode], scores[before, mode])
                head = {"policy": policy, "set": name, **labels, "mode": mode}
                if found is not None:
                    other = {"against": mode, "against_policy": before}
                    made.append(head | other | found)
    return made


def _difference(
    first: Mapping[QuestionKey, float], second: Mapping[QuestionKey, float]
) -> dict[str, Any] | None:
    """Of scores on the questions of both; None if there is none."""
    both = [key for key in first if key in second]
    if not both:
        return None
    found = statistics.paired(
        [first[key] for key in both], [second[key] for key in both]
    )
    return to_record(found)
