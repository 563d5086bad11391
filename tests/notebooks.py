"""Runs the notebooks in a process of their own, which compiles as a user's does.

What a notebook shows are figures of policies that it trains, and rounding moves them.

notebooks.py FOLDER FACTS: FACTS is JSON of {notebook: {name: expression}}; prints JSON
of {notebook: {"cells": [[shown, printed], ...], "facts": {name: value}}}. A cell that
trains, and stands in an earlier notebook too, is not run again: its names are taken.
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
    """The texts of each cell, and the names in the end; adds to `trained`."""
    cells, names = [], {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(name)):
        source = "".join(cell["source"])
        if source in trained:
            names |= trained[source]
            continue
        before = set(names)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(source, f"{name}, cell {number}", "exec"), names)
        if "train.sft(" in source:
            trained[source] = {new: names[new] for new in set(names) - before}
        outputs = (output.get("text", ()) for output in cell["outputs"])
        shown = "".join(text for output in outputs for text in output)
        cells.append([shown, printed.getvalue()])
    return cells, names


def main(folder, facts):
    found, trained = {}, {}
    for name, expressions in json.loads(facts).items():
        cells, names = run(name, trained)
        values = {fact: eval(text, names) for fact, text in expressions.items()}
        found[name] = {"cells": cells, "facts": values}
    print(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(*sys.argv[1:])
