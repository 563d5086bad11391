"""The table at the end, on a terminal."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax.evaluation.suite import LABELS
from gru_mem_jax.evaluation.tabulate import ALL, MIX, with_interval
from gru_mem_jax.runs import columns

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType
    from rich.table import Table

_CONTEXT = ("policy", "stage", *LABELS)
# Shown where they tell something.
_ASIDE = ("num_questions", "failed", "policy", "turns", "passes")
# What a narrow terminal leaves out, the first of these first.
_LEFT_OUT = (
    "passes",
    "retention",
    "well_formed",
    "capture",
    "update_off_evidence",
    "update_on_evidence",
    "alone_speed_up",
    "latency_ratio",
    "exact_sd",
    "exact_exit",
    "alone_steps",
    "alone_seconds",
    "turns",
    "chunks_read",
    "speed_up",
    "question_seconds",
)


def rich_table(
    rows: Sequence[Mapping[str, Any]], title: str = "", *, width: int = 120
) -> "RenderableType":
    """Rows of `tabulate.table_rows`, the main columns of them.

    A line says the context and policy of the rows below it. A rule parts modes; sums
    stand in bold. What the width has no room for is left out, and named in a last line.

    Args:
      rows: at least one.
      title: above them.
      width: of the terminal, in characters.
    """
    from rich.console import Group
    from rich.text import Text

    shown = [with_interval(row) for row in rows]
    several = len({row.get("policy") for row in shown}) > 1
    widths = {
        column: max(
            *(len(word) for word in column.title.split()),
            *(len(column.cell(row.get(column.name))) for row in shown),
        )
        for column in columns.table("evaluation", shown)
        if column.name not in (*_CONTEXT, *_ASIDE) or _tells(column.name, shown)
    }
    left_out = []
    for name in _LEFT_OUT:
        found = [column for column in widths if column.name == name]
        if found and sum(widths.values()) + 2 * len(widths) > width:
            left_out += found
            del widths[found[0]]
    parts: list[RenderableType] = [Text(title, "italic")] if title else []
    for number, (context, group) in enumerate(
        itertools.groupby(shown, lambda row: _context(row, several))
    ):
        table = _table(list(group), widths, heading=number == 0)
        parts += [Text(context), table] if number else [table]
        if number == 0 and context:
            table.title = Text(context)
    if left_out:
        names = ", ".join(column.heading for column in left_out)
        parts.append(Text(f"a wider terminal shows {names} too", "italic"))
    return Group(*parts)


def _tells(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a column of `_ASIDE` is shown: something failed, or was read again."""
    if name == "failed":
        return any(row.get("failed") for row in rows)
    if name in ("turns", "passes"):
        return any(row.get("passes", 0) > 1 for row in rows)
    return False


def _context(row: Mapping[str, Any], several: bool) -> str:
    """What a line above rows says of them."""
    names = [name for name in _CONTEXT if name in row and (several or name != "policy")]
    found = [columns.find(name) for name in names]
    words = [f"{c.heading} {c.cell(row[c.name])}" for c in found if c is not None]
    if row["set"] == ALL:
        words.append("all contexts")
    return ", ".join(words)


def _table(
    rows: Sequence[Mapping[str, Any]],
    widths: Mapping[columns.Column, int],
    *,
    heading: bool,
) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title_justify="left",
        title_style="",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        show_header=heading,
    )
    for column, width in widths.items():
        side: JustifyMethod = "left" if column.format == "text" else "right"
        table.add_column(column.title, justify=side, width=width)
    mode = rows[0]["mode"]
    for row in rows:
        if row["mode"] != mode:
            table.add_section()
        mode = row["mode"]
        cells = [Text(column.cell(row.get(column.name))) for column in widths]
        table.add_row(*cells, style="bold" if row["set"] in (MIX, ALL) else None)
    return table
