"""Compares two texts of gin settings without running either.

A text from a run folder is untrusted, and parsing gin imports modules: here it is only
split into names and values.
"""

import re
from collections.abc import Collection

from gru_mem_jax.records import cut

_BINDING = re.compile(r"([A-Za-z_][\w./]*)\s*=\s*(.*)", re.DOTALL)


def bindings(text: str) -> dict[str, str]:
    """Name to value, as text; a statement without a binding is its own value.

    Comments and line breaks within a value are ignored.
    """
    found: dict[str, str] = {}
    statement: list[str] = []
    for line in [*text.splitlines(), "end"]:
        line = line.removesuffix("\\").rstrip()
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        continues = line[0].isspace() or line[0] in ")]}"
        if statement and not continues:
            whole = " ".join(statement)
            match = _BINDING.fullmatch(whole)
            found[match[1] if match else whole] = match[2].strip() if match else whole
            statement = []
        statement.append(" ".join(line.split()))
    return found


def differences(
    old: str, new: str, *, may_change: Collection[str] = ()
) -> tuple[tuple[str, str | None, str | None], ...]:
    """(name, old value, new value) of each setting that differs; None: absent.

    Args:
      old: a text of settings.
      new: another.
      may_change: last parts of names that are ignored, e.g. "num_steps", which covers
        a macro NUM_STEPS too.
    """
    allowed = {name.lower() for name in may_change}
    before, after = bindings(old), bindings(new)
    return tuple(
        (name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and re.split(r"[./]", name)[-1].lower() not in allowed
    )


def describe(difference: tuple[str, str | None, str | None]) -> str:
    """E.g. "LoopConfig.alpha: 0.9 before, 0.5 now"."""
    name, old, new = difference
    old, new = (cut("absent" if v is None else v, 100) for v in (old, new))
    return f"{name}: {old} before, {new} now"
