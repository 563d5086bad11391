"""Runs read sets that `gru-mem data build` has made, from Python and by gin files."""

import dataclasses
import json
import os

import pytest
from test_labelled_runs import BUDGETS
from train_settings import quick_settings

from gru_mem_jax.cli.main import main
from gru_mem_jax.data import CurriculumSource
from gru_mem_jax.data.builders import JsonlDocuments, Length, build
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate

SHORT, LONG = "1 documents", "2 documents"
TRAIN = ("train", "--gin_file=gin/runs/train_set.gin")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of one and of two documents."""
    folder = tmp_path_factory.mktemp("sets")
    config = SyntheticConfig(tasks=("single_key",), num_chunks=1, chunk_tokens=48)
    records = [dataclasses.asdict(generate(config, i)) for i in range(12)]
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "mine.jsonl").write_text("".join(lines))
    lengths = tuple(Length("documents", count) for count in (1, 2))
    recipe = JsonlDocuments(sources=(str(folder / "mine.jsonl"),), lengths=lengths)
    build(recipe, folder / "set")
    (folder / "small.gin").write_text(BUDGETS)
    return folder


def test_a_run_over_a_length_that_grows_and_the_same_run_resumed(folder, make_run):
    source = CurriculumSource(path=folder / "set", stages=((SHORT, 0), (LONG, 4)))

    def settings(num_steps):
        made = quick_settings(num_steps=num_steps, eval_every=0, save_every=1)
        return dataclasses.replace(made, source=dataclasses.replace(source))

    whole, resumed = make_run("whole"), make_run("resumed")
    whole(settings(3))
    resumed(settings(1))
    resumed(settings(3))
    # Two questions a step: from the third on the documents have two parts.
    tokens = [row["tokens/prompts"] for row in whole.rows() if row["step"]]
    assert tokens[2] > 1.3 * max(tokens[:2]), tokens
    assert resumed.rows() == whole.rows()
    assert resumed.saved(3) == whole.saved(3)
    record = json.loads((whole.path / "checkpoints/3/record.json").read_text())
    position = record["metadata"]["position"]
    # The position is the index of grain's iterator.
    iterator = iter(source.examples().to_iter_dataset())
    iterator.set_state({"next_index": position})
    assert position == 6
    assert next(iterator) == source.example(6)


@pytest.fixture(scope="module")
def shared(folder, policy_dir):
    """Flags of `train` and of `sft`."""
    return [
        f"--gin.POLICY={str(policy_dir)!r}",
        f"--gin.DATA={str(folder / 'set')!r}",
        "--gin.SourceSuite.num_questions=2",
        "--gin.DatasetSource.held_out_share=0.25",
        f"--gin_file={folder / 'small.gin'}",
        "--dry_run",
    ]


@pytest.mark.parametrize("command", ["train", "sft"])
def test_by_gin(folder, shared, capsys, command):
    words = [command, f"--gin_file=gin/runs/{command}_set.gin", *shared]
    assert main([*words, f"--gin.LENGTH={LONG!r}"]) == 0
    told = capsys.readouterr()
    assert "data.DatasetSource.length = %LENGTH" in told.out
    assert f"data: {folder / 'set'}, " in told.err
    # What was judged is kept beside the folder, which stays as it was built.
    assert (folder / "set.gru_mem_check.json").exists()
    assert sorted(os.listdir(folder / "set")) == [
        "SHA256SUMS",
        "dataset.json",
        "questions",
        "texts",
    ]
    assert main(words) == 2
    assert "has several lengths; name one of 1 documents," in capsys.readouterr().err


def test_another_length_is_no_held_out_data(shared, capsys):
    words = [*TRAIN, *shared, f"--gin.LENGTH={SHORT!r}"]
    words.append(f"--gin.held_out/DatasetSource.length={LONG!r}")
    assert main([*words, "--gin.DatasetSource.part='all'"]) == 2
    assert "is not held out: 2 of its 2 questions" in capsys.readouterr().err


def test_a_curriculum_by_gin(shared, capsys, tmp_path):
    grows = tmp_path / "grows.gin"
    grows.write_text(
        "from __gin__ import dynamic_registration\n"
        "from gru_mem_jax import data\n"
        "from gru_mem_jax import train\n"
        "train.TrainConfig.source = @data.CurriculumSource()\n"
        "data.CurriculumSource.path = %DATA\n"
        "data.CurriculumSource.stages = (('1 documents', 0), ('9 documents', 4))\n"
        "data.CurriculumSource.part = 'train'\n"
        "data.CurriculumSource.held_out_share = 0.25\n"
    )
    words = [*TRAIN, *shared, f"--gin_file={grows}", f"--gin.LENGTH={SHORT!r}"]
    assert main(words) == 2  # before the step that would have reached it
    assert "has no length '9 documents'" in capsys.readouterr().err
    stages = "CurriculumSource.stages=(('1 documents', 0), ('2 documents', 4))"
    assert main([*words, f"--gin.{stages}"]) == 0
