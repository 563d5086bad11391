"""What is wrong with a run, from its rows; the rules are declared in columns.toml.

All state follows from the rows: who sees those of metrics.jsonl again, as a resumed run
does, goes on where they end, and neither repeats a warning nor loses one.
"""

import dataclasses
import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any

from gru_mem_jax.runs.columns import WarningRule, declared

Row = Mapping[str, Any]

# A warning that comes and goes is said again after so many rows at the earliest.
AGAIN_ROWS = 20
_COMPARED = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"(\S+) (<=|>=|<|>) (\S+)")


class Health:
    """The warnings of one run.

    Args:
      rules: None: those of columns.toml.
    """

    def __init__(self, rules: Iterable[WarningRule] | None = None):
        every = declared().warning_rules if rules is None else rules
        self._rules = [_State(rule) for rule in every]

    @property
    def holding(self) -> list[WarningRule]:
        """What is wrong now."""
        return [state.rule for state in self._rules if state.holds]

    def see(self, row: Row) -> list[str]:
        """The lines that a row gives: what begins with it.

        Args:
          row: of metrics.jsonl, with its step.
        """
        return [
            f"warning: step {row.get('step')}: {state.rule.line}"
            for state in self._rules
            if state.see(row)
        ]

    def at_end(self) -> list[str]:
        """A line of what still holds, if anything does."""
        held = "; ".join(rule.says for rule in self.holding)
        return [f"warning: at the end: {held}"] if held else []


def health_of(rows: Iterable[Row]) -> Health:
    """As it is after some rows."""
    health = Health()
    for row in rows:
        health.see(row)
    return health


def holds(condition: str, row: Row) -> bool | None:
    """Whether "NAME OP NUMBER" or "NAME OP NAME" holds; None: a column is absent.

    Raises:
      ValueError: it is no such condition.
    """
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise ValueError(f"expected NAME OP VALUE, got {condition!r}")
    name, compared, other = found.groups()
    left = _number(row.get(name))
    try:
        right: float | None = float(other)
    except ValueError:
        right = _number(row.get(other))
    if left is None or right is None:
        return None
    return bool(_COMPARED[compared](left, right))


def _number(value: Any) -> float | None:
    """A row's number; what is not finite is a string there."""
    return value if isinstance(value, int | float) else None


@dataclasses.dataclass
class _State:
    """Where a rule stands.

    Attributes:
      rule: the rule.
      met: rows one after another whose conditions held.
      seen: rows that told anything.
      said: `seen` when it was last said; None: never.
      told: whether it was said since it began to hold.
    """

    rule: WarningRule
    met: int = 0
    seen: int = 0
    said: int | None = None
    told: bool = False

    @property
    def holds(self) -> bool:
        return self.met >= self.rule.rows

    def see(self, row: Row) -> bool:
        """Takes a row in; returns whether the warning is to be said."""
        found = [holds(condition, row) for condition in self.rule.when]
        if None in found:
            return False
        self.seen += 1
        self.met = self.met + 1 if all(found) else 0
        self.told = self.told and self.holds
        soon = self.said is not None and self.seen - self.said < AGAIN_ROWS
        if not self.holds or self.told or soon:
            return False
        self.said, self.told = self.seen, True
        return True
