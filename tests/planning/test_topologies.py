"""Names of topologies, and what is said of those that are none."""

import importlib.util

import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.planning.chips import CHIPS, chip_of
from gru_mem_jax.planning.topologies import topology_devices


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "v5e-16", "v5p:4x", "", "h100:8x1"])
def test_a_name_of_another_form(name):
    with pytest.raises(InputError, match=r"is no CHIP:AxB .* such are v5e:2x4.*v6e:"):
        topology_devices(name)


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'gru_mem_jax\[tpu\]'"):
        topology_devices("v5e:2x4")


def test_figures_of_chips():
    assert chip_of("TPU v5").name == "v5p"
    for chip in CHIPS:
        assert chip.source.startswith("https://")
        # FLOPs that a byte of HBM must be worth: between 150 and 650 for all of them.
        assert 150 < chip.flops / chip.memory_bandwidth < 650
    with pytest.raises(InputError, match="figures of a TPU v2 are not known"):
        chip_of("TPU v2")
