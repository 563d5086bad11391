"""The columns, declared in columns.toml: tables, plots and docs are rendered from it.

    python -m gru_mem_jax.runs.columns > docs/metrics.md

The declarations are plain data; nothing heavy is imported.
"""

import dataclasses
import functools
import pathlib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.records import from_record

_FILE = pathlib.Path(__file__).with_suffix(".toml")
_TIMES = ("_seconds", "_per_s")
_LARGEST = 1e15  # larger numbers are shown in full
_EVALUATIONS = 3  # one after another, that a warning of held-out questions takes
NOTHING = "–"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A column; columns.toml explains its fields.

    Attributes:
      name: "*" stands for one part of a path; `find` fills it in.
    """

    name: str
    heading: str
    format: str
    meaning: str
    unit: str = ""
    healthy: str = ""
    if_not: str = ""
    panel: str = ""
    label: str = ""
    evaluated: bool = False
    eval_panel: str = ""

    @property
    def sign(self) -> str:
        """The sign after the numbers of its cells."""
        return "%" if self.format == "percent" else ""

    @property
    def title(self) -> str:
        """The heading of a table's column, with the sign of its cells."""
        return f"{self.heading} {self.sign}".rstrip()

    @property
    def description(self) -> str:
        """Meaning, and how to read it."""
        more = {"healthy": self.healthy, "if not": self.if_not}
        unit = f" ({self.unit})" if self.unit else ""
        notes = [f"{word}: {text}" for word, text in more.items() if text]
        return ". ".join([self.meaning + unit, *notes])

    def cell(self, value: object) -> str:
        """A value as text; a dash for None. Only numbers are formatted."""
        if value is None:
            return NOTHING
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or self.format == "text" or not abs(value) < _LARGEST:
            return str(value)
        if self.format == "percent":
            return f"{100 * value:.1f}"
        return format(value, self.format)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """A plot of the columns that name it.

    Attributes:
      name: of its file.
      title: above it.
      unit: of the vertical axis.
      limits: that the vertical axis always includes.
    """

    name: str
    title: str
    unit: str = ""
    limits: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """Columns of one table of docs/metrics.md."""

    title: str
    text: str = ""
    columns: tuple[Column, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarningRule:
    """What a run says of its rows; columns.toml explains its fields."""

    name: str
    when: tuple[str, ...]
    says: str
    advice: str
    rows: int = 1
    evaluated: bool = False

    @property
    def line(self) -> str:
        """As it stands in a log."""
        since = f" ({self.rows} rows one after another)" if self.rows > 1 else ""
        return f"{self.says}{since}; {self.advice}".replace("`", "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declared:
    """The contents of columns.toml.

    Attributes:
      introduction: of the docs.
      tables: name of a table to the names of its columns, in order.
      panels: in the order of the overview.
      sections: in the order of the docs.
      warnings: as they are written; `warning_rules` has all.
    """

    introduction: str
    tables: dict[str, Any]
    panels: tuple[Panel, ...]
    sections: tuple[Section, ...]
    warnings: tuple[WarningRule, ...]

    @property
    def warning_rules(self) -> tuple[WarningRule, ...]:
        """The warnings, and those derived for evaluations of supervised runs."""
        derived = (
            dataclasses.replace(
                rule,
                name=f"eval/{rule.name}",
                # Rows of reinforcement learning have no targets: rollouts tell there.
                when=("target_tokens > 0", *(f"eval/{each}" for each in rule.when)),
                says=f"on held-out questions {rule.says}",
                rows=max(rule.rows, _EVALUATIONS),
                evaluated=False,
            )
            for rule in self.warnings
            if rule.evaluated
        )
        return (*self.warnings, *derived)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns, and those derived for evaluations ("eval/NAME")."""
        written = [column for section in self.sections for column in section.columns]
        known = {column.name for column in written}
        own = [column for column in written if column.evaluated]
        following = [
            dataclasses.replace(
                column,
                name=prefix + column.name,
                heading=f"eval {words}{column.heading}",
                meaning=f"`{column.name}` of held-out questions: {column.meaning}",
                label=words + column.heading,
                panel=column.eval_panel,
                evaluated=False,
            )
            for prefix, words in (("eval/", ""), ("eval/*/", "{}: "))
            for column in own
            if prefix + column.name not in known
        ]
        return (*written, *following)


@functools.cache
def declared() -> Declared:
    """The parsed columns.toml."""
    record = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return from_record(Declared, record, _FILE.name)


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], Column], ...]:
    """All columns, those of one name before those with a star."""
    every = sorted(declared().columns, key=lambda column: "*" in column.name)
    return tuple((_regex(column.name), column) for column in every)


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", "([^/]+)"))


@functools.cache
def find(name: str) -> Column | None:
    """The column of that name, its stars filled in; None if none is declared."""
    for regex, column in _patterns():
        if found := regex.fullmatch(name):
            parts = found.groups()
            return dataclasses.replace(
                column,
                name=name,
                heading=column.heading.format(*parts),
                label=(column.label or column.heading).format(*parts),
            )
    return None


def table(name: str, rows: Iterable[Mapping[str, Any]]) -> list[Column]:
    """The columns of a table ("training", "card", "evaluation") that occur in rows."""
    present = list(dict.fromkeys(key for row in rows for key in row))
    shown: dict[str, Column] = {}
    for pattern in declared().tables[name]:
        for key in filter(_regex(pattern).fullmatch, present):
            column = find(key)
            if column is not None:
                shown.setdefault(key, column)
    return list(shown.values())


def panel_columns(panel: Panel, names: Iterable[str]) -> list[Column]:
    """The given columns that a panel shows, in the order of declaration."""
    given = list(dict.fromkeys(names))
    shown: dict[str, Column] = {}
    for declaration in declared().columns:
        if declaration.panel != panel.name:
            continue
        for name in filter(_regex(declaration.name).fullmatch, given):
            column = find(name)
            if column is not None and column.panel == panel.name:
                shown.setdefault(name, column)
    return list(shown.values())


def is_time(name: str) -> bool:
    """Whether a column is a time or a rate; all others are reproducible."""
    return name.endswith(_TIMES)


def markdown() -> str:
    """docs/metrics.md."""
    parts = [declared().introduction]
    for section in declared().sections:
        parts.append(f"## {section.title}\n")
        if section.text:
            parts.append(f"{section.text}\n")
        parts.append(_markdown_table(section.columns))
        if any(column.name == "eval/exact" for column in section.columns):
            names = [c.name for c in declared().columns if c.name.startswith("eval/")]
            names = [f"`{n}`" for n in names if "*" not in n and n != "eval/exact"]
            parts.append(
                "The others are defined as above, over all questions of the suite: "
                f"{', '.join(names)}.\n"
            )
    parts.append(_warnings_text())
    return "\n".join(parts)


def _warnings_text() -> str:
    head = ("what the log says", "when", "what to do")
    rows: list[Sequence[str]] = [head, ["---"] * len(head)]
    for rule in declared().warnings:
        when = " and ".join(f"`{each}`" for each in rule.when)
        more = f", {rule.rows} rows one after another" if rule.rows > 1 else ""
        rows.append((rule.says, when + more, rule.advice))
    return (
        "## Warnings\n\nA run watches its own rows. What is wrong is said once when it "
        "begins, in `RUN/log.txt` and on stderr, and what still holds at the end is "
        "said with the last line, and by `gru-mem show RUN`. A row without a column "
        "of a condition is passed over. In supervised runs the conditions of gates, "
        f"format and answers are those of `eval/...`, {_EVALUATIONS} evaluations one "
        "after another.\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    )


def _markdown_table(columns: Sequence[Column]) -> str:
    fields = {
        "column": lambda column: f"`{column.name}`",
        "in tables": lambda column: column.title.replace("{}", "…"),
        "unit": lambda column: column.unit,
        "what": lambda column: column.meaning,
        "healthy": lambda column: column.healthy,
        "if not": lambda column: column.if_not,
    }
    shown = [name for name, of in fields.items() if any(map(of, columns))]
    rows = [shown, ["---"] * len(shown)]
    rows += [[fields[name](column) for name in shown] for column in columns]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    print(markdown(), end="")
