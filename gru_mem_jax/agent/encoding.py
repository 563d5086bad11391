"""The protocol of tokenizers, as the agent needs them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Span = tuple[int, int]
# Marks the place of the content when a chat template is rendered.
PLACEHOLDER = "\ue000content\ue001"


class Encoder(Protocol):
    """Text to token ids and back; text and control tokens are kept apart.

    `encode` is for text that comes from outside (documents, questions, memory): it
    never returns an id of `control_ids`. `encode_control` is for our own templates:
    in it, control tokens are recognised.
    """

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids of control tokens: special, chat-template and added `<...>` tokens."""

    @property
    def format_ids(self) -> frozenset[int]:
        """The control ids whose text is a tag of the output format (`<think>`, ...).

        A policy may sample these; any other control id in a completion, except the stop
        id at its end, makes the turn malformed.
        """

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that has a string."""

    @property
    def missing_ids(self) -> frozenset[int]:
        """Ids below vocab_size that have no string."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, never control ids."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """As `encode`, with each token's (start, end) in characters of `text`."""

    def encode_control(self, text: str, *, start: bool = False) -> list[int]:
        """Ids of template text; control tokens are recognised.

        `start`: the text begins a prompt.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens included; ids without a string give U+FFFD."""

    def render_chat(
        self,
        messages: list[dict[str, str]],
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The chat template's text for `messages`, with the generation prompt.

        `variables`: further variables of the template.
        """
