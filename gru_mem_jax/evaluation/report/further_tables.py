"""The report's other tables: latency, every measure, differences of modes, attacks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gru_mem_jax.evaluation import hijack
from gru_mem_jax.evaluation.report.curves import pooled_attacks
from gru_mem_jax.evaluation.report.tables import (
    Cell,
    Group,
    Line,
    Row,
    Table,
    by_context,
    mode_heads,
    number_cell,
    policy_title,
)
from gru_mem_jax.evaluation.report.words import mode_style, visible
from gru_mem_jax.evaluation.suite import LABELS
from gru_mem_jax.evaluation.tabulate import ALL, LATENCY_BASE, MIX, with_interval
from gru_mem_jax.runs import columns


def latency_table(rows: Sequence[Row]) -> Table | None:
    """Seconds of a question that is asked alone; None where fewer than two modes are.

    Args:
      rows: of `tabulate.table_rows`.
    """
    timed = [row for row in rows if "alone_seconds" in row]
    modes = list(dict.fromkeys(row["mode"] for row in timed))
    if len(modes) < 2:
        return None
    base = mode_style(LATENCY_BASE)[1]
    notes = {
        "s": "wall-clock seconds a question, asked alone",
        "×": f"how many times faster than {base}, on the same questions",
    }
    parts = {
        mode: ("s", "×")
        if any("latency_ratio" in row for row in timed if row["mode"] == mode)
        else ("s",)
        for mode in modes
    }
    several = len({row["policy"] for row in timed}) > 1
    groups = []
    for context, own in by_context(timed).items():
        lines: dict[tuple[str, str], dict[str, Row]] = {}
        for row in own:
            lines.setdefault((row["policy"], row["set"]), {})[row["mode"]] = row
        ordered = sorted(lines.items(), key=lambda line: line[0][1] in (MIX, ALL))
        made = [_latency(name, by, parts, several) for (_, name), by in ordered]
        groups.append(Group(title=visible(context), rows=tuple(made)))
    return Table(
        name="latency",
        heading="Latency of one question",
        caption="Seconds until the answer of a question that is asked alone, of the "
        f"questions that were timed so, and how many times faster than {base}.",
        head=mode_heads([Cell(text="task", kind="text")], parts, notes),
        groups=tuple(groups),
    )


def _latency(
    name: str,
    by_mode: Mapping[str, Row],
    parts: Mapping[str, Sequence[str]],
    several: bool,
) -> Line:
    """A set by one policy; the fastest mode is bold."""
    average = name in (MIX, ALL)
    words = ["average" if average else visible(name)]
    if several:
        words += [policy_title(row["policy"]) for row in list(by_mode.values())[:1]]
    cells = [Cell(text=", ".join(words), kind="text")]
    fastest = min(row["alone_seconds"] for row in by_mode.values())
    for mode, shown in parts.items():
        row = by_mode.get(mode, {})
        seconds = number_cell(row.get("alone_seconds"))
        kind = "first best" if seconds.value == fastest else "first"
        cells.append(dataclasses.replace(seconds, kind=kind))
        if "×" in shown:
            cells.append(number_cell(row.get("latency_ratio"), ".1f"))
    return Line(cells=tuple(cells), kind="mean" if average else "")


def measures_table(rows: Sequence[Row]) -> Table:
    """All columns of an evaluation, as `columns.toml` declares them."""
    shown = [with_interval(row) for row in rows]
    hidden = {*LABELS, *(["policy"] if len({r["policy"] for r in rows}) == 1 else [])}
    named = [
        column
        for column in columns.table("evaluation", shown)
        if column.name not in hidden
    ]
    head = tuple(
        Cell(
            text=column.title,
            kind="text" if column.format == "text" else "",
            note=column.description,
        )
        for column in named
    )
    groups = [
        Group(
            title=visible(context),
            rows=tuple(
                Line(cells=tuple(_measure(column, row) for column in named))
                for row in own
            ),
        )
        for context, own in by_context(shown).items()
    ]
    return Table(
        name="measures",
        heading="All measures",
        caption="Gates, exits, capture and retention, set by set. A pointer on a "
        "heading shows what it means.",
        head=(head,),
        groups=tuple(groups),
        folded=f"{len(rows):,} rows of {len(named)} columns",
    )


def _measure(column: columns.Column, row: Row) -> Cell:
    value = row.get(column.name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = mode_style(str(value))[1] if column.name == "mode" else column.cell(value)
    return Cell(
        text=visible(text),
        kind="text" if column.format == "text" else "",
        value=value if number else None if value is not None else -1,
    )


def comparisons_table(
    comparisons: Sequence[Row], *, of_policies: bool = False
) -> Table | None:
    """Differences on the same questions; None if there are none.

    Args:
      comparisons: of `tabulate.results`.
      of_policies: between policies, else between modes.
    """
    comparisons = [c for c in comparisons if ("against_policy" in c) == of_policies]
    groups: dict[str, list[Line]] = {}
    several = len({each["policy"] for each in comparisons}) > 1
    for each in comparisons:
        (context,) = by_context([each])
        difference, low, high = (100 * each[name] for name in ("mean", "low", "high"))
        sure = low > 0 or high < 0
        cells = [
            *([Cell(text=visible(each["policy"]), kind="text")] if several else []),
            Cell(
                text={MIX: "average", ALL: "average"}.get(each["set"])
                or visible(each["set"]),
                kind="text",
            ),
            Cell(text=mode_style(each["mode"])[1], kind="text"),
            Cell(
                text=visible(each["against_policy"])
                if of_policies
                else mode_style(each["against"])[1],
                kind="text",
            ),
            Cell(
                text=_signed(difference), kind="best" if sure else "", value=difference
            ),
            Cell(text=f"{_signed(low)} to {_signed(high)}", value=low),
            Cell(
                text="<0.001" if each["p"] < 0.001 else f"{each['p']:.3f}",
                value=each["p"],
            ),
            Cell(text=f"{each['count']:,}", value=each["count"]),
        ]
        groups.setdefault(context, []).append(Line(cells=tuple(cells)))
    if not groups:
        return None
    texts = [*(["policy"] if several else []), "task", "mode", "against"]
    return Table(
        name=f"comparisons{'-policies' if of_policies else ''}",
        heading=f"Differences between {'policies' if of_policies else 'modes'}",
        caption=f"Score of a {'policy' if of_policies else 'mode'} less that of "
        "another on the same questions, in "
        "points, with its 95% interval and p by the paired bootstrap. Bold: the "
        "interval does not hold 0.",
        head=(
            (
                *(Cell(text=text, kind="text") for text in texts),
                Cell(text="difference"),
                Cell(text="95% interval"),
                Cell(text="p"),
                Cell(text="n", note="questions of both"),
            ),
        ),
        groups=tuple(
            Group(title=visible(context), rows=tuple(lines))
            for context, lines in groups.items()
        ),
        folded=f"{len(comparisons):,} comparisons",
    )


def _signed(value: float) -> str:
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def injection_tables(rows: Sequence[Row]) -> list[Table]:
    """What attacks in documents caused: all policies together, then one by one.

    Args:
      rows: of `hijack.hijack_rows`; none without attacks.
    """
    by_policy: dict[str, list[Row]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], []).append(row)
    if not by_policy:
        return []
    made = [_injection_table("injection", pooled_attacks(rows))]
    if len(by_policy) > 1:
        made += [
            dataclasses.replace(
                _injection_table(f"injection{number}", own),
                heading="",
                folded=f"Injected text: {visible(policy)}",
            )
            for number, (policy, own) in enumerate(by_policy.items())
        ]
    return made


def _injection_table(name: str, rows: Sequence[Row]) -> Table:
    groups: dict[str, list[Line]] = {}
    for row in rows:
        cells = [
            Cell(text=mode_style(row["mode"])[1], kind="text"),
            Cell(
                text=f"{row['pairs']:,}",
                more=f"{row['unpaired']} unpaired" if row["unpaired"] else "",
                value=row["pairs"],
            ),
            *(_share(row[name]) for name in hijack.MEASURES),
        ]
        groups.setdefault(row["attack"], []).append(Line(cells=tuple(cells)))
    return Table(
        name=name,
        heading="Injected text",
        caption="Orders, gate tags and control strings put into the documents, against "
        "the same questions without (their clean twins), all policies together: the "
        "share of what went right there and goes wrong here, in %, with Wilson's 95% "
        "interval. “benign” is the same replacement of text without an attack.",
        head=(
            (
                Cell(text="mode", kind="text"),
                Cell(text="pairs", note="questions answered with and without"),
                *(Cell(text=name.replace("_", " ")) for name in hijack.MEASURES),
            ),
        ),
        groups=tuple(
            Group(title=visible(attack), rows=tuple(lines))
            for attack, lines in groups.items()
        ),
        choice="Attack",
    )


def _share(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell(text=columns.NOTHING, value=-1)
    low, high = 100 * found["low"], 100 * found["high"]
    return Cell(
        text=f"{100 * found['share']:.1f}",
        more=f"{low:.0f}–{high:.0f}",
        note=f"{found['count']} of {found['of']}",
        value=found["share"],
    )
