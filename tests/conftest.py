"""Strict numerics, 8 virtual devices and quick compilation for every test."""

import gc
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # Thousands of small programs are compiled, and each is run a few times. Commands
    # that cli/ and launch/ start have no XLA_FLAGS: they are compiled as users' are.
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
_given = os.environ.get("XLA_FLAGS", "")
_missing = [flag for flag in _FLAGS if flag.partition("=")[0] not in _given]
os.environ["XLA_FLAGS"] = " ".join([_given, *_missing]).strip()

import pathlib  # noqa: E402

import pytest  # noqa: E402

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption("--run_slow", action="store_true", help="also run slow tests")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--run_slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --run_slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_configure(config):
    import jax

    # Un-awaited collectives on 8 virtual devices can deadlock on few cores.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_numpy_rank_promotion", "raise")


_MOST_MAPS = 30_000  # of the 65,530 that a process of Linux may have


@pytest.fixture(autouse=True, scope="module")
def programs_are_freed():
    """A compiled program holds some maps of memory: XLA aborts where they run out."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPS:
        import jax

        from gru_mem_jax.sampling import programs

        # Engines to come would share those of engines that are gone.
        programs.programs.cache_clear()
        programs._portable.cache_clear()
        jax.clear_caches()
        gc.collect()


_PROGRAMS_ON_DISK = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def programs_stay_where_they_were():
    """A command that runs in this process keeps programs on disk; later tests do not.

    jax can end the process where it reads a program of several virtual devices.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = {name: getattr(jax.config, name) for name in _PROGRAMS_ON_DISK}
    yield
    changed = {n: v for n, v in before.items() if getattr(jax.config, n) != v}
    for name, value in changed.items():
        jax.config.update(name, value)
    if changed:
        compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """A folder for orders to an emulator of Google Cloud Storage, which is running."""
    import gcs_emulator

    folder = tmp_path_factory.mktemp("emulator")
    with (
        gcs_emulator.started(folder) as variables,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture
def bucket(emulator, request):
    """A new place in a bucket, as text."""
    name = "".join(c if c.isalnum() else "_" for c in request.node.name)
    return f"gs://bucket/{name}-{time.time_ns()}"


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """Development data beside the checkout; users do not have it."""
    if not SHARED.is_dir():
        pytest.skip("needs the development data in ../shared")
    return SHARED


@pytest.fixture(scope="session")
def qwen2_tokenizer_dir(shared_dir) -> pathlib.Path:
    return shared_dir / "data" / "qwen2_tokenizer"
