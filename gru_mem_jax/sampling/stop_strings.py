"""Stop strings, searched on the host between decode blocks."""

from collections.abc import Callable, Sequence

from gru_mem_jax.errors import InputError


def check_stop_strings(strings: Sequence[str], can_decode: bool) -> None:
    """Refuses stop strings that cannot be searched for.

    A string with U+FFFD is refused: half a character decodes to it until the next
    token, so that a match would depend on when it is searched.

    Raises:
      InputError: one is empty or has U+FFFD, or there is no decoder.
    """
    if strings and not can_decode:
        raise InputError("stop strings need an engine that was given a decoder")
    for string in strings:
        if not string or "\ufffd" in string:
            raise InputError(
                f"stop string {string!r} cannot be used: expected text that is not "
                f"empty and has no U+FFFD"
            )


def first_stop(
    decode: Callable[[Sequence[int]], str],
    ids: Sequence[int],
    checked: int,
    strings: Sequence[str],
) -> int | None:
    """The least n > checked for which decode(ids[:n]) holds one of the strings.

    Args:
      decode: ids to text.
      ids: a completion so far.
      checked: its first `checked` ids are known to hold none.
      strings: to look for.

    Returns:
      n, or None.
    """

    def holds(n: int) -> bool:
        text = decode(ids[:n])
        return any(string in text for string in strings)

    if len(ids) <= checked or not holds(len(ids)):
        return None
    low, high = checked, len(ids)  # holds(high) and not holds(low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
