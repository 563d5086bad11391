"""The protocol of tokenizers, as the agent needs them."""

from collections.abc import Mapping
from typing import Any, Protocol

from gru_mem_jax.grammar.token_texts import Tokenizer

Span = tuple[int, int]
# Marks the place of the content when a chat template is rendered.
PLACEHOLDER = "\ue000content\ue001"


class Encoder(Tokenizer, Protocol):
    """Text to token ids and back; text and control tokens are kept apart.

    `encode` is for text that comes from outside (documents, questions, memory): it
    never returns an id of `control_ids`. `encode_control` is for our own templates:
    in it, control tokens are recognised.
    """

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """As `encode`, with each token's (start, end) in characters of `text`."""

    def render_chat(
        self,
        messages: list[dict[str, str]],
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The chat template's text for `messages`, with the generation prompt.

        `variables`: further variables of the template.
        """
