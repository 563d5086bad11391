"""gin/local_tiny.gin given last: the run of a 3B model, in small, on a laptop."""

import json

from train_settings import make_policy_dir

from gru_mem_jax.cli.main import main
from gru_mem_jax.runs.metrics import read_metrics


def test_the_papers_run_as_its_twin(tmp_path):
    records = [
        {
            "_id": f"id{i}",
            "question": f"Which {i}?",
            "answer": f"answer {i}",
            "supporting_facts": [[f"A{i}", 0]],
            "context": [[f"{name}{i}", [f"{name}{i} is {i}."]] for name in "AB"],
        }
        for i in range(4)
    ]
    (tmp_path / "hotpot.json").write_text(json.dumps(records))
    words = [
        "train",
        "--gin_file=gin/experiments/paper_3b.gin",
        "--gin_file=gin/local_tiny.gin",
        f"--gin.POLICY={str(make_policy_dir(tmp_path))!r}",
        f"--gin.DATA={str(tmp_path / 'hotpot.json')!r}",
        "--gin.PARAGRAPHS=3",
        f"--run_dir={tmp_path / 'run'}",
    ]
    assert main(words) == 0
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["kl"] >= 0 for row in rows)
