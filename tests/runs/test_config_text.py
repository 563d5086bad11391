"""Settings are compared as text; nothing in them runs (fault C10)."""

import pytest

from gru_mem_jax.runs import config_text

OLD = """
# Parameters for LoopConfig:
# ==============================================================================
import gru_mem_jax.train
from __gin__ import dynamic_registration

LoopConfig.alpha = 0.9
LoopConfig.num_steps = %NUM_STEPS
LoopConfig.tasks = \\
    ['single_key',
     'multi_key']
train.LoopConfig.mix = {
    'a': 1,
}
NUM_STEPS = 12
POLICY = 'runs/a = b'
"""


def test_bindings():
    assert config_text.bindings(OLD) == {
        "import gru_mem_jax.train": "import gru_mem_jax.train",
        "from __gin__ import dynamic_registration": (
            "from __gin__ import dynamic_registration"
        ),
        "LoopConfig.alpha": "0.9",
        "LoopConfig.num_steps": "%NUM_STEPS",
        "LoopConfig.tasks": "['single_key', 'multi_key']",
        "train.LoopConfig.mix": "{ 'a': 1, }",
        "NUM_STEPS": "12",
        "POLICY": "'runs/a = b'",
    }


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (("alpha = 0.9", "alpha = 0.5"), "LoopConfig.alpha: 0.9 before, 0.5 now"),
        (("'multi_key'", "'chain'"), "LoopConfig.tasks: ['single_key', 'multi_key'] "
         "before, ['single_key', 'chain'] now"),
        (("POLICY = 'runs/a = b'\n", ""), "POLICY: 'runs/a = b' before, absent now"),
        (("NUM_STEPS = 12", "NUM_STEPS = 13"), "NUM_STEPS: 12 before, 13 now"),
        (("import gru_mem_jax.train", "import evil"),
         "import evil: absent before, import evil now"),
        (("# ===", "# another comment ==="), None),
        (("\\\n    ['single_key',\n     'multi", "['single_key',\n    'multi"), None),
    ],
)  # fmt: skip
def test_differences(change, difference):
    new = OLD.replace(*change)
    assert new != OLD
    found = config_text.differences(OLD, new)
    assert (config_text.describe(found[0]) if found else None) == difference


def test_what_may_change():
    new = OLD.replace("12", "13").replace("%NUM_STEPS", "13").replace("0.9", "0.5")
    found = config_text.differences(OLD, new, may_change=["num_steps"])
    assert [name for name, *_ in found] == ["LoopConfig.alpha"]


def test_a_hostile_text_is_only_text():
    text = "import os\n__import__('os').abort()\na.b = (\n" + "x" * 10_000
    assert "a.b" in config_text.bindings(text)
    (found,) = config_text.differences("a = 1", "a = " + "9" * 1000)
    assert len(config_text.describe(found)) < 200
