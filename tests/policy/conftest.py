"""Compilation is what these tests take their time for."""

import jax
import pytest

# What ships is compiled with optimisation: these compare with Hugging Face.
_OPTIMISED = ("test_goldens", "test_parity_torch")


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request):
    """Equivalences of our own functions hold in programs that are not optimised too,
    and those compile in a third of the time."""
    name = request.module.__name__.rpartition(".")[2]
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", name not in _OPTIMISED)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
