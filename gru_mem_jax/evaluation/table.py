"""The table at the end, on a terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gru_mem_jax.evaluation.report import columns_of, format_cell

if TYPE_CHECKING:
    from rich.table import Table


def rich_table(rows: Sequence[Mapping], title: str = "") -> "Table":
    """Rows of `suite.table_rows` as a table; ratios in percent.

    A rule parts contexts and modes; the mix stands in bold above its tasks.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", header_style="bold")
    columns = columns_of(rows)
    for _, heading, kind in columns:
        table.add_column(heading, justify="left" if kind == "text" else "right")
    previous = None
    for row in rows:
        group = (row.get("stage"), row["evidence"], row["num_chunks"], row["mode"])
        if previous is not None and group != previous:
            table.add_section()
        cells = [Text(format_cell(row.get(key), kind)) for key, _, kind in columns]
        table.add_row(*cells, style="bold" if row["task"] == "all" else None)
        previous = group
    return table
