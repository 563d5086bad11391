"""What the agent needs of a tokenizer, as a protocol; no tokenizer lives here."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Span = tuple[int, int]
# Stands in a message where content goes, when a chat template is rendered.
PLACEHOLDER = "\ue000content\ue001"


class Encoder(Protocol):
    """Text to token ids and back, with a hard line between text and control.

    `encode` is for text that comes from outside (documents, questions, memory): it
    never returns an id of `control_ids`. `encode_control` is for our own templates:
    in it, control tokens are recognised.
    """

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids that steer a model: special, chat-template and `<...>` added tokens."""

    @property
    def format_ids(self) -> frozenset[int]:
        """The control ids whose text is a tag of the output format (`<think>`, ...).

        A policy may sample these; any other control id in a completion, the stop id
        at its end aside, makes the turn malformed.
        """

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that has a string."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; no control ids, whatever the text looks like."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """As `encode`, with each token's (start, end) in characters of `text`."""

    def encode_control(self, text: str, *, start: bool = False) -> list[int]:
        """Ids of template text; control tokens are recognised.

        `start`: it is a prompt's first part, not one in its midst.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens included; ids without a string give U+FFFD."""

    def render_chat(
        self,
        messages: list[dict[str, str]],
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The chat template's text for `messages`, with the generation prompt.

        `variables`: what else the template is told.
        """
