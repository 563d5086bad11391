"""One step's row, number by number: what a change of the step would move unnoticed.

python tests/train/test_golden_row.py    writes goldens/row.json anew; say why
"""

import json
import pathlib
import sys
import tempfile

import pytest
from train_settings import make_policy_dir, of_policy, quick_settings

from gru_mem_jax.runs.columns import is_time
from gru_mem_jax.runs.metrics import read_metrics
from gru_mem_jax.train import train

FILE = pathlib.Path(__file__).with_name("goldens") / "row.json"


def rows_of(policy, run):
    settings = of_policy(quick_settings(num_steps=1, eval_every=1), policy)
    train(settings, run, quiet=True)
    return [
        {name: value for name, value in row.items() if not is_time(name)}
        for row in read_metrics(run / "metrics.jsonl")
    ]


def test_golden_rows(policy_dir, tmp_path):
    """Counts are equal; sums of floats are, but for their order on another machine."""
    rows, golden = rows_of(policy_dir, tmp_path / "run"), json.loads(FILE.read_text())
    assert [list(row) for row in rows] == [list(row) for row in golden]
    for row, wanted in zip(rows, golden, strict=True):
        for name, value in wanted.items():
            if isinstance(value, int):
                assert row[name] == value, name
            elif name not in ("logprob_gap", "largest_logprob_gap"):  # rounding alone
                assert row[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        found = rows_of(make_policy_dir(directory), directory / "run")
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{FILE}: {len(found)} rows\n")
