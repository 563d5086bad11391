"""The policy: a decoder as pure functions over a nested dict of parameters.

Hugging Face directories and hub names are read and written; the flax modules stay
inside (`make_policy`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "agent_settings": ["policy_settings"],
        "config": ["PolicyConfig"],
        "files": ["PolicyDir", "open_policy_dir"],
        "functional": ["Params", "Policy", "make_policy"],
        "hf": ["load_config", "load_policy"],
        "hf_export": ["export_policy"],
        "rope_config": ["RopeConfig"],
    },
)
