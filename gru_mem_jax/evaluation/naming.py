"""Names of policies in tables: short, and apart from one another."""

from collections.abc import Sequence

from gru_mem_jax.evaluation.folder import ResultsFolder


def told_apart(paths: Sequence[str]) -> list[str]:
    """The last parts of some paths, as few as tell them apart; all of equal ones."""
    parts = [[part for part in path.split("/") if part] for path in paths]
    names = list(paths)
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def questions_of(folder: ResultsFolder) -> str:
    """A text that is equal for folders on the same questions."""
    return repr(folder.manifest.settings.get("sets"))


def policy_names(folders: Sequence[ResultsFolder]) -> list[dict[str, str]]:
    """Of each folder its policies' names to those in tables.

    A name that several folders on the same questions have gets their paths before it,
    as far as these tell the folders apart.
    """
    having: dict[tuple[str, str], list[int]] = {}
    for number, folder in enumerate(folders):
        for name in folder.manifest.policies:
            having.setdefault((questions_of(folder), name), []).append(number)
    named: list[dict[str, str]] = [{} for _ in folders]
    for (_, name), numbers in having.items():
        before = told_apart([str(folders[i].path) for i in numbers])
        for i, folder_name in zip(numbers, before, strict=True):
            named[i][name] = f"{folder_name}/{name}" if len(numbers) > 1 else name
    return named
