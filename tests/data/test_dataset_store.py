"""Fault R31: sets on disk are whole or not at all, continued, one build at a time."""

import dataclasses
import hashlib
import json
import os
import pathlib
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from small_recipe import LENGTHS, SHARD_BYTES, SmallRecipe

from gru_mem_jax.data import open_dataset
from gru_mem_jax.data.builders import Length, build
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.runs.lock import FileLock

HERE = pathlib.Path(__file__).parent


def hashes(folder):
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(
            file.read_bytes()
        ).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def build_small(out, **fields):
    return build(SmallRecipe(**fields), out, shard_bytes=SHARD_BYTES)


def build_elsewhere(out, *killed_after, **environment):
    """What tests/data/small_recipe.py prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / "small_recipe.py"), out, *map(str, killed_after)],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1])} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_small(tmp_path_factory.mktemp("built") / "set")


def test_what_was_stored_is_read(built):
    dataset = open_dataset(built, "5 documents", verify=True)
    assert len(dataset) == 4
    assert [example.id for example in dataset] == ["q0", "q1", "q2", "q3"]
    example = dataset[1]
    assert example.document.startswith(
        "Document 1:\nText 1 ü says that key1 is value1."
    )
    assert example.document.endswith(
        "\n\nDocument 5:\nText 5 ü says that key5 is value5."
    )
    ((start, end),) = example.evidence
    assert example.document[start:end] == "key1 is value1"
    assert example.answers == ("value1", "another")
    assert (example.task, example.scoring, example.evidence_order) == (
        "small",
        "part",
        (0,),
    )
    assert example.metadata == {"number": 1, "kind": "ü"}
    assert dataset[-1] == dataset[3]
    assert dataset[1:3] == [dataset[1], dataset[2]]
    with pytest.raises(IndexError):
        dataset[4]
    question = dataset.question(2)
    assert list(question.pieces) == [2, 3, 4, 5, 6]
    shorter = open_dataset(built, LENGTHS[0])[1]
    assert shorter.document == example.document.partition("\n\nDocument 3:")[0]


def test_the_length_is_named_where_there_are_several(built, tmp_path):
    with pytest.raises(InputError, match=r"one of 2 documents, 5 documents$"):
        open_dataset(built)
    with pytest.raises(InputError, match=r"no length '7 documents' .*mean 5 documents"):
        open_dataset(built, "7 documents")
    assert open_dataset(built, "documents_5").length == Length("documents", 5)
    one = build_small(tmp_path / "one", lengths=LENGTHS[:1])
    assert open_dataset(one).length == LENGTHS[0]


def test_tensorflow_datasets_reads_the_folder(built):
    import tensorflow_datasets as tfds

    texts = tfds.builder_from_directory(built / "texts/1.0.0").as_data_source("pool")
    assert len(texts) == 20
    assert texts[7]["text"].decode() == "Text 7 ü says that key7 is value7."
    questions = tfds.builder_from_directory(built / "questions/1.0.0")
    assert sorted(questions.info.splits) == ["documents_2", "documents_5"]
    row = questions.as_data_source("documents_5")[3]
    assert row["pieces"].tolist() == [3, 4, 5, 6, 7]
    assert str(row["pieces"].dtype) == "int32"


def test_the_builders_are_those_of_tensorflow_datasets(built, tmp_path):
    """Its own writer makes the same records of them."""
    from gru_mem_jax.data.builders.tables import Questions

    builder = Questions(recipe=SmallRecipe(), data_dir=tmp_path)
    builder.download_and_prepare()
    theirs = builder.as_data_source("documents_2")
    ours = open_dataset(built, "2 documents")
    assert [row["id"].decode() for row in theirs] == [q.id for q in ours.questions()]
    assert theirs[3]["pieces"].tolist() == list(ours.question(3).pieces)


def test_a_pool_is_of_several_files_in_order(built):
    names = [file.name for file in sorted((built / "texts/1.0.0").glob("*array*"))]
    assert len(names) > 2
    assert names[0] == "texts-pool.array_record-00000"
    assert names[-1] == f"texts-pool.array_record-{len(names) - 1:05d}"


def test_equal_recipes_give_equal_bytes_without_tensorflow(built, tmp_path):
    (told,) = build_elsewhere(tmp_path / "set", PYTHONHASHSEED="7")
    assert told == ["q0"]  # and no module
    assert hashes(tmp_path / "set") == hashes(built)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A build that was killed in the pool's first file, in later ones, in a length.

    It asks for two questions before that.
    """
    out = tmp_path_factory.mktemp("killed") / "set"
    return out, build_elsewhere(out, 4, 14, 23, 8, 5)


def test_a_killed_build_leaves_nothing_and_goes_on(built, killed, tmp_path):
    first, told = killed
    assert [each["status"] for each in told] == [signal.SIGKILL] * 5
    assert not first.exists()
    with pytest.raises(InputError, match="no such folder"):
        open_dataset(first)
    # What was whole is not made again.
    whole: dict[str, int] = {}
    for each in told:
        left = {k: time for k, time in each["left"].items() if "array" in k[-20:]}
        assert whole.items() <= left.items()
        whole = left
    assert len(whole) > 5
    out = copied(first, tmp_path)
    build_small(out)
    assert hashes(out) == hashes(built)
    assert os.listdir(tmp_path) == ["set"]
    kept = {(f.name, f.stat().st_mtime_ns) for f in out.rglob("*array*")}
    assert {(os.path.basename(name), time) for name, time in whole.items()} <= kept


def copied(out, tmp_path):
    """What an unfinished build has left, elsewhere."""
    name = ".set.building"
    shutil.copytree(out.with_name(name), tmp_path / name)
    return tmp_path / "set"


def test_parts_that_were_damaged_meanwhile_are_made_again(built, killed, tmp_path):
    out = copied(killed[0], tmp_path)
    first = sorted(tmp_path.rglob("texts-pool.array_record-*"))[0]
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    build_small(out)
    assert hashes(out) == hashes(built)


def test_two_builds_at_once(tmp_path):
    work = tmp_path / ".set.building"
    work.mkdir()
    lock = FileLock(work / "lock")
    with pytest.raises(InputError, match=rf"building: in use by pid {os.getpid()} on"):
        build_small(tmp_path / "set")
    lock.release()
    # The lock of a process that has ended is no lock.
    (work / "lock").write_text('{"pid": 1, "host": "elsewhere"}')
    assert build_small(tmp_path / "set").is_dir()
    assert not work.exists()


def test_what_is_there_stays(built):
    before = hashes(built)

    def refuse(progress):
        raise AssertionError

    assert build(SmallRecipe(), built, on_progress=refuse) == built
    with pytest.raises(InputError, match=r"recipe.seed is 0, expected 1; give another"):
        build_small(built, seed=1)
    with pytest.raises(InputError, match="lengths has 2 elements, expected 1"):
        build_small(built, lengths=LENGTHS[:1])
    assert hashes(built) == before


def test_unfinished_work_of_other_settings_is_not_lost(killed, tmp_path):
    out = copied(killed[0], tmp_path)
    with pytest.raises(InputError, match="unfinished build of other settings: recipe"):
        build_small(out, seed=1)
    progress = out.with_name(".set.building") / "progress.json"
    progress.write_text(json.dumps(json.loads(progress.read_text()) | {"parts": []}))
    assert build_small(out, seed=1).is_dir()  # nothing whole: nothing to lose


@pytest.mark.parametrize("kind", ["file", "folder", "bucket"])
def test_a_folder_that_is_no_set_is_refused(tmp_path, kind):
    out = tmp_path / "set"
    if kind == "file":
        out.write_text("mine")
        expected = "is not a folder"
    elif kind == "folder":
        (out / "mine").mkdir(parents=True)
        expected = "is not empty, and holds no data set"
    else:
        out, expected = "gs://bucket/set", "is built on a disk"
    with pytest.raises(InputError, match=expected):
        build_small(out)
    assert [p.name for p in tmp_path.iterdir()] == ([] if kind == "bucket" else ["set"])


def test_a_full_disk(built, tmp_path):
    """One line with path and bytes; the same command goes on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    out = tmp_path / "set"
    # A text is longer than a file may be.
    recipe = LongText()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, before[1]))
    try:
        with pytest.raises(RunError) as caught:
            build(recipe, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    path = tmp_path / ".set.building/dataset/texts/1.0.0/texts-pool.array_record-00000"
    assert str(caught.value).startswith(f"{path}: no space left to write (")
    assert "the same command again" in str(caught.value)
    assert not out.exists()
    assert not list(tmp_path.rglob("*.saving"))
    assert len(open_dataset(build(recipe, out), "2 documents", verify=True)) == 4


@dataclasses.dataclass(frozen=True)
class LongText(SmallRecipe):
    def pool(self):
        yield from super().pool()
        yield random.Random(0).randbytes(1 << 20).hex()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("pieces", [3, 20], "has texts 3 to 20, but the pool holds 20"),
        ("pieces", [-1, 2], "has texts -1 to 2"),
        ("glue", "sand", "glue must be one of numbered"),
        ("scoring", "best", "scoring must be one of exact"),
        ("id", "same", "gives this id twice"),
    ],
)
def test_a_recipe_that_is_wrong(tmp_path, field, value, expected):
    class Wrong(SmallRecipe):
        def questions(self, length):
            for question in super().questions(length):
                yield dataclasses.replace(question, **{field: value})

    with pytest.raises(RunError, match=f"small, 2 documents, question .*{expected}"):
        build(Wrong(), tmp_path / "set")


def test_lengths_have_the_same_questions(tmp_path):
    class Wrong(SmallRecipe):
        def questions(self, length):
            for question in super().questions(length):
                yield dataclasses.replace(question, id=f"{question.id} {length}")

    with pytest.raises(
        RunError, match="small, 5 documents: the recipe gives other ids"
    ):
        build(Wrong(), tmp_path / "set")


def test_a_failing_recipe_leaves_no_folder(tmp_path):
    class Failing(SmallRecipe):
        def pool(self):
            yield "one"
            raise InputError("file.json: record 3: bad")

    with pytest.raises(InputError, match=r"file.json: record 3: bad"):
        build(Failing(), tmp_path / "set")
    assert os.listdir(tmp_path) == []


def test_a_length_that_is_too_short_is_told_before_texts_are_written(tmp_path):
    class Short(SmallRecipe):
        def questions(self, length):
            if length == LENGTHS[1]:
                raise InputError("5 documents: too short")
            return super().questions(length)

    said = []
    with pytest.raises(InputError, match="5 documents: too short"):
        build(Short(), tmp_path / "set", on_progress=said.append)
    assert said == []
    assert os.listdir(tmp_path) == []


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    made = build_small(tmp_path / "link")
    assert made == tmp_path / "empty"
    assert (
        open_dataset(tmp_path / "link", LENGTHS[0])[0]
        == open_dataset(made, LENGTHS[0])[0]
    )
    assert sorted(os.listdir(tmp_path)) == ["empty", "link"]


def test_the_working_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is the working folder"):
        build_small(".")
    assert os.listdir(tmp_path) == []


def test_damage_is_named_when_a_folder_is_opened(built, tmp_path):
    out = build_small(tmp_path / "set")
    (name,) = out.rglob("*documents_2*-00000")
    data = name.read_bytes()
    name.write_bytes(data[:100])
    with pytest.raises(
        InputError, match=r"documents_2\S+ has 100 bytes, expected 131072"
    ):
        open_dataset(out, "5 documents")
    with pytest.raises(InputError, match="is damaged"):
        build_small(out)
    name.unlink()
    with pytest.raises(InputError, match=r"documents_2.array_record-00000 is missing"):
        open_dataset(out, "5 documents")
    name.write_bytes(data[:70] + bytes([data[70] ^ 1]) + data[71:])
    open_dataset(out, "5 documents")  # sizes are right
    with pytest.raises(InputError, match=r"documents_2\S+ differs from its sha256"):
        open_dataset(out, "5 documents", verify=True)


def test_the_folder_can_be_checked_by_other_means_and_moved(built, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(built)
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=moved, capture_output=True
    )
    assert done.returncode == 0
    manifest = json.loads((built / "dataset.json").read_text())
    assert manifest["texts"] == 20
    assert str(built.parent) not in (built / "dataset.json").read_text()
    assert (
        open_dataset(moved, "2 documents")[0] == open_dataset(built, "2 documents")[0]
    )


def test_threads_and_other_processes_read_the_same(built):
    dataset = open_dataset(built, "5 documents")
    wanted = list(open_dataset(built, "5 documents"))
    copy = pickle.loads(pickle.dumps(dataset))
    assert list(copy) == wanted
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(list(dataset))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4
