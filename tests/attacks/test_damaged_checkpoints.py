"""Each file of a step damaged in each way: named, skipped, left in place.

Faults R4, R6 and R11.
"""

import shutil

import damaged_checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax import durable_files
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.runs.checkpoints import step as checkpoint_step
from gru_mem_jax.runs.checkpoints.manager import Checkpoints

ABSTRACT = {
    "params": {"w": jax.ShapeDtypeStruct((40, 30), jnp.float32)},
    "optimiser": {"count": jax.ShapeDtypeStruct((), jnp.int32)},
}


def trees(step: int):
    # Random data, for what compresses well is stored inline in few files.
    w = np.random.default_rng(step).normal(size=(40, 30)).astype(np.float32)
    return {"params": {"w": w}, "optimiser": {"count": np.int32(step)}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 3, 6 and 9."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (3, 6, 9):
            checkpoints.save(
                step, trees(step), {"data": step}, files={"operative.gin": b"x = 1\n"}
            )
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def listing(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("kind", damaged_checkpoints.KINDS, ids=lambda k: k.__name__)
def test_each_file_damaged_is_noticed(saved, kind):
    step = saved / "9"
    files = damaged_checkpoints.files(step)
    assert len(files) >= 15
    for path in files:
        name = path.relative_to(step).as_posix()
        with damaged_checkpoints.damaged(path, kind):
            found = durable_files.problems(step)
            assert found, name
            # Damage to the list itself shows as damage to what it lists, or to it.
            assert path.name == durable_files.MANIFEST or any(name in f for f in found)
        assert durable_files.problems(step) == (), name


@pytest.mark.parametrize("kind", damaged_checkpoints.KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("which", ["data", "record", "list"])
def test_the_step_before_is_used(copied, kind, which):
    pattern = {
        "data": "params/ocdbt.process_0/d/*",
        "record": "record.json",
        "list": durable_files.MANIFEST,
    }[which]
    path = max((copied / "9").glob(pattern), key=lambda p: p.stat().st_size)
    kind(path)
    before = listing(copied)
    with Checkpoints(copied) as checkpoints:
        found = checkpoints.restore_latest(ABSTRACT)
        assert found.step == 6
        assert found.metadata == {"data": 6}
        np.testing.assert_array_equal(
            found.trees["params"]["w"], trees(6)["params"]["w"]
        )
        (warning,) = found.warnings
        assert f"{copied}/9: damaged: " in warning
        # A reader that wants the newest gets no older one in its place.
        with pytest.raises(RunError, match="checkpoints/9: damaged"):
            checkpoints.restore(ABSTRACT)
        with pytest.raises(RunError, match="checkpoints/9: damaged"):
            checkpoints.metadata(9)
    assert listing(copied) == before


@pytest.mark.filterwarnings(  # Orbax, stopped halfway, leaves coroutines behind
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize(
    ("module", "place"),
    [
        (durable_files, "_read_manifest"),
        (durable_files, "_names"),
        (durable_files, "sha256_all"),
        (checkpoint_step, "read_record"),
        (checkpoint_step, "_check"),
        (checkpoint_step, "_restore"),
        (checkpoint_step, "_small_files"),
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("latest", [False, True], ids=["restore", "restore_latest"])
def test_a_step_deleted_while_it_is_read_is_not_damage(
    copied, monkeypatch, module, place, after, latest
):
    """A writer deletes step 9 once a reader came to a place, and has 6 left."""
    whole = getattr(module, place)

    def deleting(*args, **kwargs):
        monkeypatch.setattr(module, place, whole)
        if after:
            found = whole(*args, **kwargs)
            shutil.rmtree(copied / "9")
            return found
        shutil.rmtree(copied / "9")
        return whole(*args, **kwargs)

    monkeypatch.setattr(module, place, deleting)
    with Checkpoints(copied, create=False) as checkpoints:
        if latest:
            restored = checkpoints.restore_latest(ABSTRACT)
            assert (restored.step, restored.warnings) == (6, ())
            found = restored.trees
        else:
            found = checkpoints.restore(ABSTRACT)
    assert not (copied / "9").exists()
    np.testing.assert_array_equal(found["params"]["w"], trees(6)["params"]["w"])


def test_no_flip_within_the_list_goes_unnoticed(saved):
    step = saved / "9"
    path = step / durable_files.MANIFEST
    size = path.stat().st_size
    for index in range(0, size, 3):
        with damaged_checkpoints.damaged(
            path, lambda p, i=index: damaged_checkpoints.flip(p, i, i % 8)
        ):
            assert durable_files.problems(step), index


def test_list_cut_between_two_lines_is_noticed(saved):
    path = saved / "9" / durable_files.MANIFEST
    lines = path.read_bytes().splitlines(keepends=True)
    with damaged_checkpoints.damaged(
        path, lambda p: p.write_bytes(b"".join(lines[:-1]))
    ):
        assert durable_files.problems(saved / "9") == ("record.json is not listed",)


def test_link_to_elsewhere_is_refused(copied):
    path = copied / "9" / "params" / "manifest.ocdbt"
    damaged_checkpoints.replace_by_link(path)
    with Checkpoints(copied, create=False) as checkpoints:
        assert checkpoints.problems(9) == (
            "params/manifest.ocdbt is not a regular file",
        )


def test_stray_file_is_refused(copied):
    (copied / "9" / "params" / "d" / "extra").write_bytes(b"x")
    with Checkpoints(copied) as checkpoints:
        assert checkpoints.problems(9) == ("params/d/extra is not listed",)


def test_all_damaged_lists_each_and_deletes_nothing(copied):
    damaged_checkpoints.empty(copied / "9" / "record.json")
    damaged_checkpoints.remove(copied / "6" / "params" / "_METADATA")
    damaged_checkpoints.flip_middle(copied / "3" / "optimiser" / "manifest.ocdbt")
    before = listing(copied)
    with Checkpoints(copied, keep=1) as checkpoints, pytest.raises(RunError) as error:
        checkpoints.restore_latest(ABSTRACT)
    message = str(error.value)
    for part in (
        "9: damaged: record.json differs from its sha256: it is empty",
        "6: damaged: params/_METADATA is missing",
        "3: damaged: optimiser/manifest.ocdbt differs from its sha256: cut or changed",
    ):
        assert part in message
    assert "\n" not in message
    assert listing(copied) == before


def test_damaged_step_is_saved_anew_and_kept_aside(copied):
    damaged_checkpoints.flip_middle(copied / "6" / "record.json")
    damaged_checkpoints.flip_middle(copied / "9" / "record.json")
    damage = listing(copied / "6")
    with Checkpoints(copied) as checkpoints:
        assert checkpoints.restore_latest(ABSTRACT).step == 3
        checkpoints.save(6, trees(60))
        assert listing(copied / "6.damaged") == damage
        found = checkpoints.restore_latest(ABSTRACT)
        assert found.step == 6
        assert len(found.warnings) == 1
        assert int(found.trees["optimiser"]["count"]) == 60
        # A second time, the first one's remains stay too.
        damaged_checkpoints.flip_middle(copied / "6" / "record.json")
        checkpoints.save(6, trees(61))
    assert (copied / "6.damaged").is_dir()
    assert (copied / "6.damaged1").is_dir()


def test_damaged_steps_count_for_nothing_when_old_ones_are_deleted(copied):
    damaged_checkpoints.flip_middle(copied / "6" / "record.json")
    damaged_checkpoints.flip_middle(copied / "9" / "record.json")
    with Checkpoints(copied, keep=2) as checkpoints:
        checkpoints.save(12, trees(12))
        assert checkpoints.steps() == (3, 6, 9, 12)  # good ones: 3 and 12
        checkpoints.save(15, trees(15))
        assert checkpoints.steps() == (6, 9, 12, 15)
        assert checkpoints.problems(6)
        assert checkpoints.problems(9)


def test_a_new_step_that_cannot_be_verified_deletes_nothing(copied, monkeypatch):
    write = durable_files.write_manifest

    def write_then_rot(folder, rest):
        write(folder, rest)
        damaged_checkpoints.flip_middle(folder / "params" / "_METADATA")

    monkeypatch.setattr(durable_files, "write_manifest", write_then_rot)
    with (
        pytest.raises(RunError, match=r"12: cannot be written.*from what was written"),
        Checkpoints(copied, keep=1) as checkpoints,
    ):
        checkpoints.save(12, trees(12))
    assert sorted(path.name for path in copied.iterdir()) == ["3", "6", "9"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b'{"format": 2}', InputError, "has format 2, this version .* reads 1"),
        (b'{"format": 1, "trees": 3}', RunError, "trees is not a JSON object"),
        (b"[" * 100_000, RunError, "not a checkpoint's record"),
        (b"\xff", RunError, "not a checkpoint's record"),
        (b'{"format": 1, "trees": {}, "metadata": {}}', InputError, "has no params"),
    ],
)
def test_hostile_record_with_a_right_list(copied, text, error, message):
    (copied / "9" / "record.json").write_bytes(text)
    (copied / "9" / durable_files.MANIFEST).unlink()
    durable_files.write_manifest(copied / "9")
    with (
        Checkpoints(copied, create=False) as checkpoints,
        pytest.raises(error, match=message),
    ):
        checkpoints.restore(ABSTRACT)
