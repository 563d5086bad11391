"""How a policy wants contexts to be read: the settings in its directory."""

from gru_mem_jax.agent.config import SETTINGS_FILE, AgentConfig, config_from_json
from gru_mem_jax.policy.files import PolicyDir


def policy_settings(directory: PolicyDir) -> AgentConfig:
    """The settings in a policy directory's gru_mem.json; the defaults without one.

    Raises:
      InputError: a setting that does not exist, or is out of range.
    """
    text = directory.read_text(SETTINGS_FILE)
    if text is None:
        return AgentConfig()
    return config_from_json(text, str(directory.root / SETTINGS_FILE))
