"""The settings in a policy directory: how the policy reads contexts."""

import json

from gru_mem_jax.agent.config import (
    SETTINGS_FILE,
    AgentConfig,
    config_from_dict,
    config_from_json,
)
from gru_mem_jax.policy.files import PolicyDir
from gru_mem_jax.policy.generation import sampling_defaults


def policy_settings(directory: PolicyDir) -> AgentConfig:
    """The settings in a policy directory's gru_mem.json; the defaults without one.

    Sampling defaults to generation_config.json, as in transformers and in servers;
    gru_mem.json has precedence.

    Raises:
      InputError: a setting that does not exist, or is out of range.
    """
    sampling = sampling_defaults(directory)
    text = directory.read_text(SETTINGS_FILE)
    if text is None:
        return config_from_dict({"sampling": sampling})
    where = str(directory.root / SETTINGS_FILE)
    config_from_json(text, where)  # whole, with messages that name the file
    record = json.loads(text)
    own = record.get("sampling", {})
    return config_from_dict({**record, "sampling": {**sampling, **own}}, where)
