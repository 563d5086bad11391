"""Prompts as messages for a chat server, which takes text and not token ids.

The server renders its chat template around the message and recognises control strings
anywhere in it. So the wording is sent as it is, and every control string of the policy
in what was inserted (question, memory, chunk) gets a space behind its first character:
`<|im_end|>` becomes `< |im_end|>`.
"""

import re

from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.requests import Prompt
from gru_mem_jax.errors import InputError


class ChatText:
    """Makes messages for a server of one policy.

    Args:
      encoder: the policy's tokenizer.
    """

    def __init__(self, encoder: Encoder):
        self._decode = encoder.decode
        strings = {encoder.decode([i]) for i in encoder.control_ids} - {""}
        longest_first = sorted(strings, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def neutralised(self, text: str) -> str:
        """The text with no control string in it; without one it is unchanged.

        Each control string gets a space behind its first character, and one of a single
        character becomes a space.
        """
        # A space may complete another control string: hence the loop. It ends, since
        # each turn makes the spaces of what it finds more.
        while self._control.search(text):
            text = self._control.sub(_broken, text)
        return text

    def message(self, prompt: Prompt) -> str:
        """The user's message of a prompt.

        Raises:
          InputError: a control segment does not know its text.
        """
        parts = []
        for segment in prompt:
            if segment.role != "control":
                parts.append(self.neutralised(self._decode(segment.ids)))
            elif segment.text is None:
                raise InputError(
                    "a prompt of token ids alone cannot be sent to a chat server; make "
                    "it with PromptBuilder"
                )
            else:
                parts.append(segment.text)
        return "".join(parts)


def _broken(match: re.Match[str]) -> str:
    text = match.group()
    return f"{text[0]} {text[1:]}" if len(text) > 1 else " "
