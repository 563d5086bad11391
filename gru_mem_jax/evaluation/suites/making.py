"""A suite's question sets from data sets on disk, which are built where they can be."""

import functools
import os
import pathlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.data import dataset_files
from gru_mem_jax.data.builders.recipe import Length, Recipe
from gru_mem_jax.data.dataset_source import DatasetSource
from gru_mem_jax.data.injection import InjectedSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suite import QuestionSet
from gru_mem_jax.evaluation.suites.catalogue import OFFICIAL_FILES, SUITES
from gru_mem_jax.evaluation.suites.parts import MadeSuite, Part, chosen
from gru_mem_jax.records import did_you_mean


class MissingDataSets(InputError):
    """Data sets of a suite are not there, and cannot be built.

    Attributes:
      summary: without the lines.
      lines: one for each official file that is missing, with where it can be had; then
        one for each data set, with the command that builds it.
    """

    def __init__(self, suite: str, lines: Sequence[str], count: int):
        self.lines = tuple(lines)
        self.summary = (
            f"suite {suite}: data sets are missing ({count}); give the files that they "
            "are built from, or build them, or choose by --tasks what is there"
        )
        super().__init__(": ".join((self.summary, "; ".join(lines))))


File = str | os.PathLike[str]
Sources = Mapping[str, File | Sequence[File]]


def check_sources(names: Iterable[str]) -> None:
    """Checks the names of --source.

    Raises:
      InputError: one is unknown.
    """
    for name in names:
        if name not in OFFICIAL_FILES:
            hint = did_you_mean(name, OFFICIAL_FILES)
            raise InputError(f"--source: unknown name {name!r}{hint}")


def make_suite(
    name: str,
    *,
    datasets: str | os.PathLike[str] | None,
    sources: Sources | None = None,
    lengths: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    gaps: Sequence[int] | None = None,
    num_questions: int = 128,
    seed: int | None = None,
    encoder: Callable[[], Encoder],
    chunk_size: int,
    on_progress: Callable[[str], None] = lambda line: None,
) -> MadeSuite:
    """The suite's sets, from data sets in a folder.

    A data set that is in the folder is used as it is. One that is not is built there,
    if its sources are given.

    Args:
      name: of `SUITES`.
      datasets: the folder; each data set has one of its own in it.
      sources: official files by name, one or several, see `OFFICIAL_FILES`.
      lengths: of the documents, as --lengths has them; None: the suite's own.
      tasks: of the suite; of "injection" kinds of attack. None: all.
      gaps: of "bridge", in chunks; None: its own.
      num_questions: of each set.
      seed: of the questions, and of attacks; None: whatever a data set that is there
        has, else 0.
      encoder: opens the policy's tokenizer; called where tokens are counted.
      chunk_size: of the agent, in tokens.
      on_progress: is told how far a build is.

    Raises:
      InputError: a setting does not fit the suite; data sets are missing: names each,
        where its source can be had, and the command that builds it; one is damaged, or
        has too few questions or other lengths.
      RunError: a data set cannot be written.
    """
    if name not in SUITES:
        raise InputError(f"unknown suite {name!r:.40}{did_you_mean(name, SUITES)}")
    check_sources(sources or ())
    kind = SUITES[name]
    parts = kind.all_parts(lengths, gaps)
    attacks = kind.attacks and chosen(tasks, kind.attacks, name)
    if not attacks:
        names = chosen(tasks, kind.tasks, name)
        parts = [part for part in parts if part.name in names]
    maker = _Maker(
        None if datasets is None else pathlib.Path(datasets),
        sources or {},
        num_questions,
        seed,
        functools.cache(encoder),
        chunk_size,
    )
    maker.check(name, parts)
    for part in parts:
        maker.build(part, on_progress)
    sets = []
    for part in parts:
        for text, length in part.lengths.items():
            source = maker.open(part, length)
            for attack in (None, *attacks):
                sets.append(
                    QuestionSet(
                        name=part.name,
                        source=InjectedSource(
                            source=source,
                            kind=attack,
                            encoder=maker.encoder(),
                            chunk_size=chunk_size,
                            seed=seed or 0,
                            most=num_questions,
                        )
                        if attacks
                        else source,
                        # Those that cannot be attacked are passed over.
                        count=None if attacks else num_questions,
                        length=text,
                        placement=part.placement,
                        gap=part.gap,
                        attack=attack,
                        in_mix=part.in_mix,
                        left_out_modes=part.left_out_modes,
                    )
                )
    return MadeSuite(name=name, sets=tuple(sorted(sets, key=_by_length(sets))))


def _by_length(sets: Sequence[QuestionSet]) -> Callable[[QuestionSet], int]:
    """Contexts in the order in which they were named; sorting is stable."""
    order = {text: i for i, text in enumerate(dict.fromkeys(s.length for s in sets))}
    return lambda each: order[each.length]


def _paths(files: File | Sequence[File]) -> tuple[str, ...]:
    if isinstance(files, str | os.PathLike):
        return (os.fspath(files),)
    return tuple(os.fspath(file) for file in files)


class _Maker:
    """Data sets in a folder, and what they are built with."""

    def __init__(
        self,
        datasets: pathlib.Path | None,
        sources: Sources,
        num_questions: int,
        seed: int | None,
        encoder: Callable[[], Encoder],
        chunk_size: int,
    ):
        self._datasets, self._sources = datasets, sources
        self._num_questions, self._seed = num_questions, seed
        self.encoder, self._chunk_size = encoder, chunk_size

    def check(self, suite: str, parts: Sequence[Part]) -> None:
        """Raises InputError that names all data sets that cannot be had."""
        missing, unready = [], []
        for part in parts:
            if self._is_built(part):
                self._check_built(part)
            elif lacking := [s for s in part.sources if s not in self._sources]:
                missing.append((part, lacking))
            elif self._datasets is None:
                unready.append(part)
        if missing:
            raise MissingDataSets(suite, self._lines(missing), len(missing))
        if unready:
            names = ", ".join(dict.fromkeys(part.folder for part in unready))
            raise InputError(
                f"suite {suite}: give --datasets DIR, a folder in which its data sets "
                f"({names}) are built"
            )

    def _lines(self, missing: Sequence[tuple[Part, Sequence[str]]]) -> tuple[str, ...]:
        """Where each file can be had, and the command that builds each data set."""
        wanted = dict.fromkeys(name for _, names in missing for name in names)
        files = (
            f"--source {name}=FILE: {file} ({home})"
            for name, (file, home) in ((n, OFFICIAL_FILES[n]) for n in wanted)
        )
        commands = (f"{part.name}: {self._command(part)}" for part, _ in missing)
        return (*files, *commands)

    def _command(self, part: Part) -> str:
        """The command that builds a part's data set."""
        words = ["gru-mem", "data", "build", part.builder]
        for name in part.sources:
            flag = "--haystack" if name == "haystack" else "--source"
            words += [flag, OFFICIAL_FILES[name][0] if flag == "--source" else "FILE"]
        for name, value in part.settings.items():
            words += [f"--{name}", str(value)]
        lengths = list(part.lengths.values())
        counts = ",".join(str(length.count) for length in lengths)
        words += [f"--{lengths[0].unit}", counts]
        words += ["--num_questions", str(self._num_questions)]
        words += ["--seed", str(self._seed or 0)]
        if self._counts_tokens(part):
            words += ["--tokenizer", "DIR"]
        if self._counts_chunks(part):
            words += ["--chunk_size", str(self._chunk_size)]
        words += ["--out", os.fspath(self._folder(part))]
        return shlex.join(words)

    def _folder(self, part: Part) -> pathlib.Path:
        return (self._datasets or pathlib.Path("DIR")) / part.folder

    def _is_built(self, part: Part) -> bool:
        folder = self._folder(part)
        return self._datasets is not None and folder.exists()

    def _check_built(self, part: Part) -> None:
        """Checks that a data set is the part's, by what it says about itself."""
        folder = self._folder(part)
        manifest = dataset_files.read_manifest(folder)
        known = {each.length: each.questions for each in manifest.sets}
        if manifest.name != part.builder:
            raise InputError(
                f"{folder}: is a data set of {manifest.name}, expected {part.builder}; "
                "give another --datasets folder"
            )
        wanted = dict(part.settings)
        if self._seed is not None:
            wanted["seed"] = self._seed
        if "bridge_gap" in wanted:
            wanted["chunk_size"] = self._chunk_size
        for name, value in wanted.items():
            if (found := manifest.recipe.get(name)) != value:
                raise InputError(
                    f"{folder}: has {name} {found!r}, expected {value!r}; move it away "
                    f"and build it again: {self._command(part)}"
                )
        for length in part.lengths.values():
            if length not in known:
                raise InputError(
                    f"{folder}: has no documents of {length} (it has "
                    f"{', '.join(map(str, known))}); choose by --lengths, or move it "
                    f"away and build it again: {self._command(part)}"
                )
            if known[length] < self._num_questions:
                raise InputError(
                    f"{folder}: has {known[length]} questions of {length}, fewer than "
                    f"{self._num_questions}; lower --num_questions, or move it away "
                    f"and build it again: {self._command(part)}"
                )

    def build(self, part: Part, on_progress: Callable[[str], None]) -> None:
        """Builds a part's data set, if it is not there."""
        from gru_mem_jax.data.builders import store

        if self._is_built(part):
            return
        folder = self._folder(part)
        told: set[str] = set()

        def on_part(progress: store.Progress) -> None:
            if progress.part not in told:
                told.add(progress.part)
                on_progress(f"building {folder}: {progress.part}")

        store.build(self._recipe(part), folder, on_progress=on_part)

    def _recipe(self, part: Part) -> Recipe:
        from gru_mem_jax.data.builders.registry import recipe_class

        settings: dict[str, Any] = dict(part.settings)
        files = {name: _paths(self._sources[name]) for name in part.sources}
        if haystack := files.pop("haystack", ()):
            settings["haystack"] = haystack[0]
        if files:
            settings["sources"] = tuple(
                file for each in files.values() for file in each
            )
        if self._counts_tokens(part):
            settings["encoder"] = self.encoder()
        if self._counts_chunks(part):
            settings["chunk_size"] = self._chunk_size
        recipe: Recipe = recipe_class(part.builder)(
            lengths=tuple(part.lengths.values()),
            num_questions=self._num_questions,
            seed=self._seed or 0,
            **settings,
        )
        return recipe

    def _counts_chunks(self, part: Part) -> bool:
        units = {length.unit for length in part.lengths.values()}
        return "chunks" in units or "bridge_gap" in part.settings

    def _counts_tokens(self, part: Part) -> bool:
        units = {length.unit for length in part.lengths.values()}
        return "tokens" in units or self._counts_chunks(part)

    def open(self, part: Part, length: Length) -> DatasetSource:
        """The questions of a length, in the data set's order."""
        return DatasetSource(path=self._folder(part), length=str(length), shuffle=False)
