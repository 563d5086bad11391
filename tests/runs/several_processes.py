"""Starts processes that are joined by jax.distributed, and what they do in tests."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback

import numpy as np

from gru_mem_jax.testing.processes import device_flags, free_port

COUNT, DEVICES = 2, 4


def run(case: str, folder: pathlib.Path, **variables: str) -> list[dict]:
    """What a case (a function below) returned in each of several processes."""
    port = str(free_port())
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": device_flags(DEVICES)}
    env = os.environ | flags | variables
    command = [sys.executable, __file__, case, str(folder), port, str(COUNT)]
    with contextlib.ExitStack() as stack:
        outputs, processes = [], []
        for index in range(COUNT):
            out, err = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in "12")
            process = subprocess.Popen(
                [*command, str(index)], env=env, stdout=out, stderr=err
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            outputs.append((out, err))
            processes.append(process)
        found = []
        for process, (out, err) in zip(processes, outputs):
            process.wait(timeout=120)
            for file in (out, err):
                file.seek(0)
            assert process.returncode == 0, err.read()[-3000:]
            found.append(json.loads(out.read().splitlines()[-1]))
    return found


def values(step: int) -> dict[str, np.ndarray]:
    """Arrays of a step: two that are cut, one of odd size, one number."""
    rng = np.random.default_rng(step)
    return {
        "embed": rng.normal(size=(16, 24)).astype(np.float32),
        "norm": rng.normal(size=7).astype(np.float32),
        "count": np.int32(step),
        "layers": rng.normal(size=(2, 8, 8)).astype(np.float32),
    }


def axes() -> dict[str, tuple]:
    """How `values` are cut over a mesh (data, fsdp, tensor)."""
    return {
        "embed": ("fsdp", "tensor"),
        "norm": (),
        "count": (),
        "layers": (None, "fsdp", "tensor"),
    }


def shardings(sizes: tuple[int, int, int]) -> dict:
    """Of `values`, on a mesh of all devices."""
    import jax

    names = ("data", "fsdp", "tensor")
    kinds = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.make_mesh(sizes, names, axis_types=kinds)
    spec = jax.sharding.PartitionSpec
    return {
        name: jax.sharding.NamedSharding(mesh, spec(*cut))
        for name, cut in axes().items()
    }


def placed(step: int, sizes: tuple[int, int, int]) -> dict:
    """`values` as arrays over all devices of all processes."""
    import jax

    at = shardings(sizes)
    return {
        name: jax.make_array_from_callback(
            np.shape(x), at[name], lambda index, x=x: np.asarray(x)[index]
        )
        for name, x in values(step).items()
    }


def target(sizes: tuple[int, int, int] | None) -> dict:
    """Abstract `values`; without sizes: for one device."""
    import jax

    at = {} if sizes is None else shardings(sizes)
    return {
        name: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=at.get(name))
        for name, x in values(0).items()
    }


def tried(function, *arguments, **named):
    """What it raised, as text; None: nothing."""
    try:
        function(*arguments, **named)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def equal(tree, step: int) -> bool:
    """Whether the parts of this process are those of `values`."""
    return all(
        np.array_equal(np.asarray(part.data), np.asarray(value)[part.index])
        for name, value in values(step).items()
        for part in tree[name].addressable_shards
    )


def save(folder: pathlib.Path, hosts) -> dict:
    """A run folder, steps by all, a failure of one of them, and what each sees."""
    from gru_mem_jax.runs.checkpoints import writing
    from gru_mem_jax.runs.checkpoints.manager import Checkpoints
    from gru_mem_jax.runs.folder import RunFolder, describe_environment

    options = {"command": ["a"], "environment": describe_environment}
    found = {"names": hosts.names}
    with RunFolder.open(folder / "run", config_text="a = 1\n", **options) as run:
        run.log(f"by {hosts.index}")
        found["second"] = tried(
            RunFolder.open, folder / "run", config_text="a = 1\n", **options
        )
        found["id"], found["text"] = run.id, run.config_text
        found["devices"] = len(describe_environment()["devices"])
        with Checkpoints(run.checkpoints, keep=2) as checkpoints:
            for step in (1, 2, 3):
                tree = {"params": placed(step, (1, 8, 1)), "empty": {}}
                checkpoints.save(step, tree, {"step": step}, wait=step == 2)
            checkpoints.wait()
            found["steps"] = checkpoints.steps()
            found["again"] = tried(checkpoints.save, 3, tree)
            restored = checkpoints.restore_latest({"params": target((2, 2, 2))})
            found["step"] = restored.step
            found["equal"] = equal(restored.trees["params"], 3)
            whole = writing.Writing._wait
            if hosts.index == 1:  # its disk is full
                full = OSError(28, "No space left on device", "a file")
                writing.Writing._wait = raising(full)
            for wait in (True, False):
                saved = tried(checkpoints.save, 4, tree, wait=wait)
                found.setdefault("full", []).append(saved or tried(checkpoints.wait))
            writing.Writing._wait = whole
            found["left"] = sorted(path.name for path in run.checkpoints.iterdir())
    found["other"] = tried(
        RunFolder.open, folder / "run", config_text="a = 2\n", **options
    )
    own = folder / f"own{hosts.index}"
    from gru_mem_jax.runs import folder as run_folder

    run_folder._SEEN_SECONDS = 0.3
    found["own"] = tried(RunFolder.open, own, config_text="", **options)
    found["bucket"] = in_a_bucket(os.environ["BUCKET"])
    return found


def in_a_bucket(path: str) -> dict:
    """The same on objects, in short."""
    from gru_mem_jax.runs.checkpoints.manager import Checkpoints
    from gru_mem_jax.runs.folder import RunFolder

    with (
        RunFolder.open(path, command=[], config_text="", environment={}) as run,
        Checkpoints(run.checkpoints, keep=1) as checkpoints,
    ):
        for step in (1, 2):
            tree = {"params": placed(step, (2, 2, 2))}
            checkpoints.save(step, tree, wait=False)
        checkpoints.wait()
        restored = checkpoints.restore_latest({"params": target((1, 8, 1))})
        steps = checkpoints.steps()
        return {"steps": steps, "equal": equal(restored.trees["params"], 2)}


def restore(folder: pathlib.Path, hosts) -> dict:
    """What one process saved, in several; and a step that is damaged."""
    from gru_mem_jax.runs.checkpoints.manager import Checkpoints

    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_latest({"params": target((2, 2, 2))})
        return {
            "step": found.step,
            "equal": equal(found.trees["params"], found.step),
            "warnings": found.warnings,
            "missing": tried(checkpoints.restore, {"other": {}}, 1),
        }


def raising(error):
    def function(*unused, **named):
        raise error

    return function


def child(case: str, folder: str, port: str, count: str, index: str) -> None:
    import jax

    from gru_mem_jax.hosts import processes as hosts_lib

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    hosts = hosts_lib.start(
        coordinator=f"127.0.0.1:{port}", num_processes=int(count), process_id=int(index)
    )
    try:
        found = globals()[case](pathlib.Path(folder), hosts)
        print(json.dumps(found), flush=True)
        hosts.leave(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    child(*sys.argv[1:])
