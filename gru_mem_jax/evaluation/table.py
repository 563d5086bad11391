"""The table at the end, on a terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gru_mem_jax.evaluation.run import MIX
from gru_mem_jax.runs import columns

if TYPE_CHECKING:
    from rich.table import Table


def rich_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> "Table":
    """Rows of `run.table_rows` as a table.

    A rule parts contexts and modes; the mix stands in bold above its sets.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", header_style="bold")
    named = columns.table("evaluation", rows)
    for column in named:
        justify = "left" if column.format == "text" else "right"
        table.add_column(column.title, justify=justify)
    previous = None
    for row in rows:
        parts = ("stage", "placement", "num_chunks", "mode")
        group = tuple(row.get(name) for name in parts)
        if previous is not None and group != previous:
            table.add_section()
        cells = [Text(column.cell(row.get(column.name))) for column in named]
        table.add_row(*cells, style="bold" if row["set"] == MIX else None)
        previous = group
    return table
