"""The table at the end, on a terminal."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax.evaluation.suite import LABELS
from gru_mem_jax.evaluation.tabulate import ALL, MIX
from gru_mem_jax.runs import columns

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_CONTEXT = ("policy", "stage", *LABELS)
_MOST = 119  # columns of a terminal
_ASIDE = ("num_questions", "failed", "policy")  # shown where they tell something


def rich_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> "RenderableType":
    """Rows of `tabulate.table_rows`, the main columns of them, within 120 columns.

    A line says the context and policy of the rows below it. A rule parts modes; sums
    stand in bold.
    """
    from rich.console import Group
    from rich.text import Text

    shown = [_shown(row) for row in rows]
    several = len({row.get("policy") for row in shown}) > 1
    named = [
        column
        for column in columns.table("evaluation", shown)
        if column.name not in (*_CONTEXT, *_ASIDE)
        or (column.name == "failed" and any(row.get("failed") for row in shown))
    ]
    widths = [
        max(
            *(len(word) for word in column.title.split()),
            *(len(column.cell(row.get(column.name))) for row in shown),
        )
        for column in named
    ]
    parts: list[RenderableType] = [Text(title, "italic")] if title else []
    for number, (context, group) in enumerate(
        itertools.groupby(shown, lambda row: _context(row, several))
    ):
        table = _table(list(group), named, widths, heading=number == 0)
        parts += [Text(context), table] if number else [table]
        if number == 0 and context:
            table.title = Text(context)
    return Group(*parts)


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
    named: Sequence[columns.Column],
    widths: Sequence[int],
    *,
    heading: bool,
) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    wide = sum(widths) + 2 * len(widths) > _MOST
    table = Table(
        title_justify="left",
        title_style="",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0 if wide else (0, 1),
        collapse_padding=True,
        show_header=heading,
    )
    for column, width in zip(named, widths, strict=True):
        justify = "left" if column.format == "text" else "right"
        table.add_column(column.title, justify=justify, width=width)
    mode = rows[0]["mode"]
    for row in rows:
        if row["mode"] != mode:
            table.add_section()
        mode = row["mode"]
        cells = [Text(column.cell(row.get(column.name))) for column in named]
        table.add_row(*cells, style="bold" if row["set"] in (MIX, ALL) else None)
    return table


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = dict(row)
    if "exact_low" in row and "exact_high" in row:
        shown["interval"] = (
            f"{100 * row['exact_low']:.0f}–{100 * row['exact_high']:.0f}"
        )
    return shown
