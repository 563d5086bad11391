"""Runs the notebooks in a process of their own, which compiles as a user's does.

What a notebook shows are figures of policies that it trains, and rounding moves them.

notebooks.py FOLDER FACTS: FACTS is JSON of {notebook: {name: expression}}; prints JSON
of {notebook: {"cells": [[shown, printed], ...], "taken": n, "facts": {name: value}}}.
A cell that trains, and stands in an earlier notebook too, is not run again: its names
are taken, and it is counted.
"""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import warnings

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def notebooks(folder, facts):
    """What this file prints."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, __file__, str(folder), json.dumps(facts)],
        env=env | {"MPLBACKEND": "agg", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def code_cells(name):
    cells = json.loads((EXAMPLES / name).read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run(name, trained):
    """Texts of each cell, how many were not run, names; adds to `trained`."""
    cells, taken, names = [], 0, {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(name)):
        source = "".join(cell["source"])
        if source in trained:
            names |= trained[source]
            taken += 1
            continue
        before = set(names)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(source, f"{name}, cell {number}", "exec"), names)
        if "train.sft(" in source:
            trained[source] = {new: names[new] for new in set(names) - before}
        outputs = (output.get("text", ()) for output in cell["outputs"])
        shown = "".join(text for output in outputs for text in output)
        cells.append([shown, printed.getvalue()])
    return cells, taken, names


def main(folder, facts):
    found, trained = {}, {}
    for name, expressions in json.loads(facts).items():
        cells, taken, names = run(name, trained)
        values = {fact: eval(text, names) for fact, text in expressions.items()}
        found[name] = {"cells": cells, "taken": taken, "facts": values}
    print(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(*sys.argv[1:])
