"""The tables of a report, cell by cell, from the rows of `tabulate` and `hijack`."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.evaluation.report.words import (
    MODE_MEANINGS,
    context_title,
    mode_style,
    visible,
)
from gru_mem_jax.evaluation.suite import LABELS
from gru_mem_jax.evaluation.tabulate import ALL, MEAN, MIX
from gru_mem_jax.runs import columns

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell.

    Attributes:
      text, more: what it says; `more` is small.
      kind: classes of its style.
      mode: whose colour a heading has.
      note: what a pointer on it shows.
      value: to sort by; None: its text.
      span: columns.
    """

    text: str
    more: str = ""
    kind: str = ""
    mode: str = ""
    note: str = ""
    value: float | None = None
    span: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A row; those of kind "mean" stay last when rows are sorted."""

    cells: tuple[Cell, ...]
    kind: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Rows below a title, which a reader can choose."""

    title: str
    rows: tuple[Line, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
      name: of its place in the page.
      heading, caption: above it.
      head: rows of headings; the last names the columns.
      groups: its rows.
      choice: what a reader chooses by the groups' titles.
      folded: what opens it; empty: it is open.
      part: heading of the part that begins with it; empty: none does.
    """

    name: str
    heading: str
    caption: str
    head: tuple[tuple[Cell, ...], ...]
    groups: tuple[Group, ...]
    choice: str = "Context"
    folded: str = ""
    part: str = ""

    @property
    def width(self) -> int:
        """Columns."""
        return sum(cell.span for cell in self.head[-1])

    def of_part(self, number: int, heading: str) -> "Table":
        """The table in a part of the page."""
        name = f"{self.name}-{number + 1}" if number else self.name
        return dataclasses.replace(self, name=name, part=heading)


def main_tables(rows: Sequence[Row], aside: Iterable[str] = ()) -> list[Table]:
    """The paper's table: score and time of each task, a table for each policy.

    Args:
      rows: of `tabulate.table_rows`.
      aside: names of sets that are in no average.
    """
    by_policy: dict[str, list[Row]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], []).append(row)
    made = []
    for number, policy in enumerate(_mean_first(by_policy)):
        heading = "Score and time"
        if len(by_policy) > 1:
            heading += f": {policy_title(policy)}"
        folded = MEAN in by_policy and policy != MEAN
        table = _main_table(
            f"scores{number}", heading, by_policy[policy], frozenset(aside)
        )
        if folded:
            table = dataclasses.replace(table, heading="", caption="", folded=heading)
        made.append(table)
    return made


def policy_title(policy: str) -> str:
    """A policy as headings call it."""
    return "mean of the policies" if policy == MEAN else visible(policy)


def _mean_first(policies: Iterable[str]) -> list[str]:
    return sorted(policies, key=lambda policy: policy != MEAN)


def _main_table(
    name: str, heading: str, rows: Sequence[Row], aside: frozenset[str]
) -> Table:
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    parts = {mode: _parts(rows, mode) for mode in modes}
    groups = []
    for context, own in by_context(rows).items():
        sets = list(dict.fromkeys(row["set"] for row in own))
        sets.sort(key=lambda each: each == MIX)  # the average last
        lines = [
            _main_line([row for row in own if row["set"] == each], parts, each in aside)
            for each in sets
        ]
        groups.append(Group(title=visible(context), rows=tuple(lines)))
    stars = " * not in the average." if aside else ""
    return Table(
        name=name,
        heading=heading,
        caption="Mean score in % (small: 95% interval, bootstrap over questions; of a "
        "mean over policies: ± their standard deviation), seconds a question, and how "
        "many times faster than MemAgent. The best is bold. Average: over all "
        f"questions of a context. Failed questions score 0.{stars}",
        head=_main_head("task", parts),
        groups=tuple(groups),
    )


_MEANINGS = {
    "score": "mean score in %, with its 95% interval, or ± the standard deviation over "
    "the policies",
    "s": "wall-clock seconds a question, many side by side",
    "s alone": "wall-clock seconds of a question alone",
    "×": "how many times faster than MemAgent, on the same questions",
}


def _parts(rows: Sequence[Row], mode: str) -> tuple[str, ...]:
    """The columns of a mode."""
    own = [row for row in rows if row["mode"] == mode]
    alone = any("alone_seconds" in row for row in own)
    faster = any("speed_up" in row or "alone_speed_up" in row for row in own)
    return ("score", "s", *["s alone"] * alone, *["×"] * faster)


def mode_heads(
    first: Sequence[Cell],
    parts: Mapping[str, Sequence[str]],
    notes: Mapping[str, str],
) -> tuple[tuple[Cell, ...], ...]:
    """Two rows of headings: the modes, and below each its columns.

    Args:
      first: headings of the columns before those of the modes.
      parts: names of the columns of each mode.
      notes: what a pointer on a column's name shows.
    """
    top, named = [Cell(text="", span=len(first))], list(first)
    for mode, own in parts.items():
        top.append(
            Cell(
                text=mode_style(mode)[1],
                mode=visible(mode),
                span=len(own),
                note=MODE_MEANINGS.get(mode, ""),
            )
        )
        named += [
            Cell(text=part, note=notes[part], kind="first" if i == 0 else "")
            for i, part in enumerate(own)
        ]
    return tuple(top), tuple(named)


def _main_head(
    first: str, parts: Mapping[str, Sequence[str]]
) -> tuple[tuple[Cell, ...], ...]:
    named = [Cell(text=first, kind="text"), Cell(text="n", note="questions")]
    return mode_heads(named, parts, _MEANINGS)


def _main_line(
    rows: Sequence[Row], parts: Mapping[str, Sequence[str]], aside: bool
) -> Line:
    by_mode = {row["mode"]: row for row in rows}
    name = rows[0]["set"]
    shown = {MIX: "average", ALL: "average"}.get(name, visible(name) + "*" * aside)
    number = max(row["num_questions"] for row in rows)
    cells = [Cell(text=shown, kind="text"), Cell(text=f"{number:,}")]
    best = _best([row["exact"] for row in rows])
    for mode, own in parts.items():
        row = by_mode.get(mode)
        if row is None:
            cells += [
                Cell(text=columns.NOTHING, kind="first" if i == 0 else "", value=-1)
                for i in range(len(own))
            ]
            continue
        cells.append(_score_cell(row, best))
        cells.append(number_cell(row.get("question_seconds")))
        if "s alone" in own:
            cells.append(number_cell(row.get("alone_seconds")))
        if "×" in own:
            found = row.get("alone_speed_up", row.get("speed_up"))
            cells.append(number_cell(found, ".1f"))
    return Line(cells=tuple(cells), kind="mean" if name in (MIX, ALL) else "")


def _best(values: Sequence[float]) -> float | None:
    """The largest, where not all are equal."""
    return max(values) if len(set(values)) > 1 else None


def _score_cell(row: Row, best: float | None) -> Cell:
    more = note = ""
    if "exact_low" in row:
        more = f"{100 * row['exact_low']:.0f}–{100 * row['exact_high']:.0f}"
        note = f"95% interval {more}"
    if row.get("exact_sd") is not None:
        more = f"±{100 * row['exact_sd']:.1f}"
        note = f"standard deviation over policies {more[1:]}; {note}"
    if row.get("failed"):
        note = f"{row['failed']} failed; {note}"
    return Cell(
        text=f"{100 * row['exact']:.1f}" + "!" * bool(row.get("failed")),
        more=more,
        kind="first best" if row["exact"] == best else "first",
        note=note,
        value=row["exact"],
    )


def number_cell(value: float | None, form: str = "") -> Cell:
    """A cell of a number; seconds without a form."""
    if value is None:
        return Cell(text=columns.NOTHING, value=-1)
    if not form:  # seconds, to three digits
        form = ".0f" if value >= 100 else ".1f" if value >= 10 else ".2f"
        form = ".3f" if value < 1 else form
    return Cell(text=format(value, form), value=value)


def by_context(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        labels = {name: row[name] for name in LABELS if name in row}
        title = context_title(labels)
        if row["set"] == ALL:
            title = "all contexts"
        groups.setdefault(title, []).append(row)
    return groups


def averages_table(rows: Sequence[Row]) -> Table | None:
    """Context by context the average alone: what a paper prints; None of one."""
    groups = []
    modes = dict.fromkeys(row["mode"] for row in rows)
    parts = {mode: _parts(rows, mode) for mode in modes}
    by_policy: dict[str, list[Row]] = {}
    for row in rows:
        if row["set"] == MIX:
            by_policy.setdefault(row["policy"], []).append(row)
    for policy in _mean_first(by_policy):
        own, lines = by_policy[policy], []
        for context, group in by_context(own).items():
            line = _main_line(group, parts, aside=False)
            first = dataclasses.replace(line.cells[0], text=visible(context) or "all")
            lines.append(Line(cells=(first, *line.cells[1:])))
        title = policy_title(policy) if len(by_policy) > 1 else ""
        groups.append(Group(title=title, rows=tuple(lines)))
    if sum(len(group.rows) for group in groups) < 2:
        return None
    return Table(
        name="averages",
        heading="Averages",
        caption="Over all questions of a context; the tasks one by one are below.",
        head=_main_head("context", parts),
        groups=tuple(groups),
        choice="Policy",
    )
