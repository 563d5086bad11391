"""Saving and restoring steps: exactness, placement, what is kept, what is refused.

Faults R13 and R14.
"""

import json
import os
import subprocess
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gru_mem_jax import durable_files, records
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.runs.checkpoints import step as checkpoint_step
from gru_mem_jax.runs.checkpoints.manager import Checkpoints

PARAMS = {
    "embed": np.arange(12, dtype=np.float32).reshape(4, 3),
    "layers": {"q": np.full((2, 3), 0.5, jnp.bfloat16), "n": np.int32(7)},
}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_params_and_optimiser_come_back_bit_for_bit(tmp_path):
    params = jax.tree.map(jnp.asarray, PARAMS)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = tx.init(params)
    saved = {"params": params, "optimiser": state, "adapters": {}}
    metadata = {"data_position": 17, "seed": 3, "config": {"alpha": 0.9, "l": [1, 2]}}
    files = {"tokenizer.json": b"{}", "operative.gin": "a = 'ü'\n".encode()}
    files["additional_chat_templates/tool_use.jinja"] = b"x"
    with Checkpoints(tmp_path / "a") as checkpoints:
        checkpoints.save(12, saved, metadata, files=files)
    with Checkpoints(tmp_path / "a", create=False) as checkpoints:
        target = jax.eval_shape(
            lambda: {"params": params, "optimiser": tx.init(params), "adapters": {}}
        )
        found = checkpoints.restore_latest(target)
        equal(found.trees, saved)
        assert (found.step, found.metadata, found.files) == (12, metadata, files)
        assert found.warnings == ()
        # One of the trees alone, as an export wants it.
        equal(checkpoints.restore({"params": abstract(params)})["params"], params)


def test_sha256sum_agrees_and_no_absolute_path_is_stored(tmp_path):
    with Checkpoints(tmp_path / "a") as checkpoints:
        checkpoints.save(1, {"params": PARAMS})
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    subprocess.run(command, cwd=tmp_path / "a" / "1", check=True)
    for path in (tmp_path / "a").rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes()


def test_arrays_may_be_donated_while_they_are_written(tmp_path):
    step = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    tree = {f"w{i}": jnp.full((256, 256), float(i)) for i in range(8)}
    target = abstract(tree)
    with Checkpoints(tmp_path) as checkpoints:
        for n in range(3):
            checkpoints.save(n, {"params": tree}, wait=False)
            for _ in range(20):
                tree = step(tree)
        checkpoints.wait()
        for n in range(3):
            found = checkpoints.restore({"params": target}, n)["params"]
            for i in range(8):
                np.testing.assert_array_equal(found[f"w{i}"], np.float32(i + 20 * n))


def test_sharding_of_the_target_decides(tmp_path):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = np.arange(16, dtype=np.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, {"params": {"x": jax.device_put(x, spec)}})
        for sharding, devices in ((spec, 8), (None, 1)):
            leaf = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=sharding)
            found = checkpoints.restore({"params": {"x": leaf}})["params"]["x"]
            assert len(found.sharding.device_set) == devices
            np.testing.assert_array_equal(np.asarray(found), x)


def test_keeps_the_newest_and_the_best(tmp_path):
    metrics = {1: 0.2, 2: 0.9, 3: 0.4, 4: None, 5: 0.1}
    for best, kept, top in (
        ("max", (2, 4, 5), 2),
        ("min", (4, 5), 5),
        (None, (4, 5), None),
    ):
        with Checkpoints(tmp_path / str(best), keep=2, best=best) as checkpoints:
            for step, metric in metrics.items():
                checkpoints.save(step, {"params": PARAMS}, metric=metric, wait=False)
            checkpoints.wait()
            assert checkpoints.steps() == kept
            assert checkpoints.best_step() == top
        assert sorted(p.name for p in (tmp_path / str(best)).iterdir()) == [
            str(step) for step in kept
        ]


def test_nothing_saved(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore_latest({"params": abstract(PARAMS)}) is None
        with pytest.raises(InputError, match="holds no checkpoint"):
            checkpoints.metadata()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p | {"embed": np.zeros((4, 5), np.float32)},
            r"params.embed is float32\[4, 3\], expected float32\[4, 5\]",
        ),
        (
            lambda p: p | {"embed": np.zeros((4, 3), np.int32)},
            r"params.embed is float32\[4, 3\], expected int32\[4, 3\]",
        ),
        (
            lambda p: p | {"head": np.zeros(2, np.float32)},
            r"params.head is absent, expected float32\[2\]",
        ),
        (
            lambda p: {"layers": p["layers"]},
            r"params.embed is float32\[4, 3\], expected absent",
        ),
    ],
)
def test_other_shape_is_refused_by_its_first_difference(tmp_path, change, message):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": PARAMS})
        target = {"params": abstract(change(PARAMS))}
        for restore in (checkpoints.restore, checkpoints.restore_latest):
            with pytest.raises(InputError, match=message):
                restore(target)
        with pytest.raises(InputError, match="has no optimiser; it has params"):
            checkpoints.restore({"optimiser": {}})
        with pytest.raises(InputError, match="has no step 2; it has 1"):
            checkpoints.restore({}, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"step": 1}, RunError, "1: is already saved"),
        ({"step": -1}, InputError, "at least 0"),
        ({"trees": {"files": PARAMS}}, InputError, "'files' cannot be the name"),
        ({"trees": {"../x": PARAMS}}, InputError, "cannot be the name"),
        ({"trees": {"params": {"a": 1.0}}}, InputError, "expected an array, got float"),
        (
            {"trees": {"params": {"a": {"b": np.zeros(1)}, "a.b": np.zeros(1)}}},
            InputError,
            "a.b: two leaves",
        ),
        (
            {"trees": {"params": {"a": {"b": np.array([1.0, np.nan])}}}},
            RunError,
            "2: params.a.b holds a number that is not finite",
        ),
        (
            {"trees": {"params": {"a": jnp.full(2, -jnp.inf, jnp.bfloat16)}}},
            RunError,
            "not finite",
        ),
        ({"metadata": {"a": float("nan")}}, InputError, "is not JSON"),
        ({"metadata": {"a": object()}}, InputError, "is not JSON"),
        ({"files": {"../a": b""}}, InputError, "cannot be the name of a file"),
        ({"files": {".hidden": b""}}, InputError, "cannot be the name of a file"),
        ({"files": {"a/../b": b""}}, InputError, "cannot be the name of a file"),
        ({"files": {"a/b/c": b""}}, InputError, "cannot be the name of a file"),
    ],
)
def test_what_cannot_be_saved(tmp_path, arguments, error, message):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": PARAMS})
        with pytest.raises(error, match=message):
            checkpoints.save(**{"step": 2, "trees": {"params": PARAMS}} | arguments)
        assert checkpoints.steps() == (1,)
        assert checkpoints.problems(1) == ()


def test_where_it_can_be_opened(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a folder"):
        Checkpoints(tmp_path / "file")
    with pytest.raises(InputError, match="no such folder"):
        Checkpoints(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="at least 1"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(InputError, match="'max' or 'min'"):
        Checkpoints(tmp_path, best="highest")
    with (
        Checkpoints(tmp_path, create=False) as checkpoints,
        pytest.raises(InputError, match="opened for reading"),
    ):
        checkpoints.save(1, {"params": PARAMS})


def test_leftovers_go_and_other_names_stay(tmp_path):
    for name in ("7.saving", "7.saving.orbax-checkpoint-tmp", "6.deleting", "notes"):
        (tmp_path / name / "d").mkdir(parents=True)
    (tmp_path / "8.damaged").mkdir()
    with Checkpoints(tmp_path, create=False) as checkpoints:  # a reader writes nothing
        assert checkpoints.steps() == ()
    assert len(list(tmp_path.iterdir())) == 5
    with Checkpoints(tmp_path):
        assert sorted(p.name for p in tmp_path.iterdir()) == ["8.damaged", "notes"]


def test_first_difference():
    difference = records.first_difference
    assert difference({"a": [1, {"b": 2}]}, {"a": (1, {"b": 2})}) is None
    assert difference({"a": 1, "b": 1}, {"a": 1, "b": 2}) == "b is 1, expected 2"
    assert difference({"a": {"x": 1}}, {"a": {}}) == "a.x is 1, expected absent"
    assert difference({"a": [1, 2]}, {"a": [1, 3]}) == "a[1] is 2, expected 3"
    assert difference({"a": [1]}, {"a": [1, 3]}) == "a has 1 elements, expected 2"
    assert difference({"a": True}, {"a": 1}) == "a is True, expected 1"


@pytest.mark.parametrize(
    "name",
    [
        "sweep [lr=3e-4]",
        "a\\b",
        "x**y",
        "s*?r",
        "{a,b}",
        "50%41 #1",
        "'it' \"is\"",
        "two\nlines",
        " ünï 日本 ",
        "bytes\udcff",
        "l" * 200,
    ],
)
@pytest.mark.parametrize("inner", ["", "run"])
def test_any_path_works(tmp_path, name, inner):
    folder = tmp_path / name / inner / "checkpoints"
    link = tmp_path / "link [x]"
    link.symlink_to(tmp_path / name)
    with Checkpoints(folder, keep=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"params": PARAMS}, files={"a.json": b"{}"})
        assert checkpoints.steps() == (2,)
    for path in (folder, link / inner / "checkpoints"):
        with Checkpoints(path, create=False) as checkpoints:
            found = checkpoints.restore_latest({"params": abstract(PARAMS)})
            equal(found.trees["params"], PARAMS)
    for path in folder.rglob("*"):
        assert not path.is_file() or b"gru_mem_" not in path.read_bytes(), path


def test_a_name_that_reads_as_a_pattern_takes_nothing_from_its_neighbour(tmp_path):
    other = {"w": np.ones(3, np.float32)}
    for name, tree in (("sXr", other), ("s*r", {"w": np.zeros(3, np.float32)})):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(1, {"params": tree})
    for name, value in (("sXr", 1), ("s*r", 0)):
        with Checkpoints(tmp_path / name, create=False) as checkpoints:
            found = checkpoints.restore({"params": abstract(other)})["params"]["w"]
        np.testing.assert_array_equal(np.asarray(found), np.float32([value] * 3))


def test_a_step_counts_only_after_its_arrays_were_restored(tmp_path, monkeypatch):
    """Orbax reads one array back otherwise than it was, or not at all."""
    read = checkpoint_step._read_arrays

    def rot(folder, name, tree, **options):
        arrays = dict(read(folder, name, tree, **options))
        for key in arrays.keys() & {"layers.q"}:
            arrays[key] = np.asarray(arrays[key]).copy()
            arrays[key][1, 2] += 1
        return arrays

    def lose(folder, name, tree, **options):
        raise RunError(f"{folder}: cannot be read: NOT_FOUND")

    for fault, message in (
        (rot, "params.layers.q differs from the saved array"),
        (lose, "cannot be read: NOT_FOUND"),
    ):
        folder = tmp_path / fault.__name__
        with Checkpoints(folder, keep=1) as checkpoints:
            checkpoints.save(1, {"params": PARAMS})
            with monkeypatch.context() as patch:
                patch.setattr(checkpoint_step, "_read_arrays", fault)
                with pytest.raises(RunError, match=message):
                    checkpoints.save(2, {"params": PARAMS})
                checkpoints.save(2, {"params": PARAMS}, wait=False)
                with pytest.raises(RunError, match=message):
                    checkpoints.wait()
            assert [path.name for path in folder.iterdir()] == ["1"]
            checkpoints.save(2, {"params": PARAMS})
            assert checkpoints.steps() == (2,)


def test_arrays_are_read_back_a_bounded_part_at_a_time(tmp_path, monkeypatch):
    tree = {f"w{i}": np.full(1000, i, np.float32) for i in range(5)}
    tree["large"] = np.zeros(5000, np.float32)
    monkeypatch.setattr(checkpoint_step, "_MAX_BATCH", 8000)
    read, batches = checkpoint_step._read_arrays, []

    def counting(folder, name, tree, **options):
        batches.append(sorted(tree))
        return read(folder, name, tree, **options)

    monkeypatch.setattr(checkpoint_step, "_read_arrays", counting)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": tree})
    assert sorted(key for batch in batches for key in batch) == sorted(tree)
    assert max(len(batch) for batch in batches) == 2
    assert ["large"] in batches


def test_a_save_beside_a_training_is_slow_until_somebody_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    slept = []

    class Clock(threading.Event):
        def wait(self, timeout=None):
            slept.append((timeout, self.is_set()))
            return super().wait(None if timeout is None else min(timeout, 30))

    monkeypatch.setattr(
        checkpoint_step,
        "threading",
        types.SimpleNamespace(Event=Clock, get_native_id=threading.get_native_id),
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": PARAMS}, wait=False)
        deadline = time.monotonic() + 20
        while not slept and time.monotonic() < deadline:
            time.sleep(0.01)
        assert slept
        assert slept[0][0] > 0
        assert not slept[0][1]
        checkpoints.wait()
        assert checkpoints.steps() == (1,)
        count = len(slept)
        checkpoints.save(2, {"params": PARAMS})  # waited for: no sleep that lasts
        assert all(hurried for _, hurried in slept[count:])


def test_a_restored_array_is_compared_with_its_checksum(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"params": PARAMS})
    # A whole step with a right sha256 list, whose arrays are another step's.
    record = json.loads((tmp_path / "2" / "record.json").read_text())
    record["checksums"]["params"]["embed"] = "0123456789abcdef"
    relisted(tmp_path / "2", record)
    with Checkpoints(tmp_path, create=False) as checkpoints:
        found = checkpoints.restore_latest({"params": abstract(PARAMS)})
        assert found.step == 1
        assert "params.embed differs from the saved array" in found.warnings[0]
    for sums, good in (({}, True), ({"params": []}, False), (3, False)):
        relisted(tmp_path / "2", record | {"checksums": sums})
        with Checkpoints(tmp_path, create=False) as checkpoints:
            found = checkpoints.restore_latest({"params": abstract(PARAMS)})
            assert found.step == (2 if good else 1)
    del record["checksums"]  # as steps of earlier versions have none
    relisted(tmp_path / "2", record)
    with Checkpoints(tmp_path, create=False) as checkpoints:
        assert checkpoints.restore_latest({"params": abstract(PARAMS)}).step == 2


def relisted(folder, record):
    (folder / "record.json").write_text(json.dumps(record))
    (folder / durable_files.MANIFEST).unlink()
    durable_files.write_manifest(folder)
