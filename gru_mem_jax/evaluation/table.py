"""The table at the end, on a terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax.evaluation.suite import LABELS
from gru_mem_jax.runs import columns

if TYPE_CHECKING:
    from rich.table import Table

_SUMS = ("mix", "all")


def rich_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> "Table":
    """Rows of `tabulate.table_rows` as a table: the main columns.

    A rule parts contexts, policies and modes; the mix stands in bold above its sets.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = [_shown(row) for row in rows]
    hidden = [] if any(row.get("failed") for row in shown) else ["failed"]
    if len({row.get("policy") for row in shown}) == 1:
        hidden.append("policy")
    shown = [{k: v for k, v in row.items() if k not in hidden} for row in shown]
    table = Table(
        title=title or None,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    named = columns.table("evaluation", shown)
    for column in named:
        words = column.format == "text"
        table.add_column(
            column.title, justify="left" if words else "right", no_wrap=words
        )
    previous = None
    for row in shown:
        parts = ("policy", "stage", *LABELS, "mode")
        group = tuple(row.get(name) for name in parts)
        if previous is not None and group != previous:
            table.add_section()
        cells = [Text(column.cell(row.get(column.name))) for column in named]
        table.add_row(*cells, style="bold" if row["set"] in _SUMS else None)
        previous = group
    return table


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = dict(row)
    if "exact_low" in row and "exact_high" in row:
        shown["interval"] = (
            f"{100 * row['exact_low']:.0f}–{100 * row['exact_high']:.0f}"
        )
    return shown
