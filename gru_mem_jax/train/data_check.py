"""A run knows its data before its first step: each record of a file, judged once.

What only tokenizer and budgets can say (`data.judge`) takes a pass over the file. Its
result lies beside the file, as FILE.gru_mem_check.json, and holds for the same file,
tokenizer and settings; an interrupted pass resumes where it stopped.
"""

import dataclasses
import hashlib
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from gru_mem_jax import durable_files, storage
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.data.bad_records import BadRecord, BadRecordsError, Records, reasons
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.files import FileSource
from gru_mem_jax.data.judge import Judge
from gru_mem_jax.data.sources import ExampleSource, on_bad_record, records_of
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.files import PolicyDir, tokenizer_files
from gru_mem_jax.train.config import SFTConfig, TrainConfig, value_text
from gru_mem_jax.train.plan import Plan
from gru_mem_jax.version import __version__

CHECK_FILE = "data_check.json"
_SUFFIX = ".gru_mem_check.json"
_FORMAT = 1
_MAX_BYTES = 1 << 28
# Sizes are measured on so much of a file; counting chunks takes time.
_SIZED_RECORDS, _SIZED_CHARACTERS = 1000, 1 << 22
_LISTED, _FEW = 20, 3
_SECONDS_BETWEEN_LINES = 30.0
# What changes no verdict; the file is known by its contents.
_NOT_JUDGED_BY = ("path", "seed", "on_bad_record")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataCheck:
    """What is known of a finite source.

    Attributes:
      records: of it, with all bad ones, those that only the tokenizer can tell too.
      passed_over: ids of the latter: the source gives them.
      sizes: a phrase on lengths, for the log.
      listed: name of the file that lists the bad records; None: none does.
      unsaved: the result, where it could not be written beside the file.
    """

    records: Records
    passed_over: frozenset[str] = frozenset()
    sizes: str = ""
    listed: str | None = None
    unsaved: bytes | None = None

    def lines(self) -> list[str]:
        """What a user should see before a run."""
        records = self.records
        bad, total = records.bad, len(records)
        lines = [f"data: {records.name}, {total} records; {self.sizes}"]
        if bad:
            kinds = f": {reasons(bad)}" if len(bad) > _FEW else ""
            lines.append(f"data: {len(bad)} of {total} records skipped{kinds}")
            lines += told(records, self.listed)
        return lines


class _TurnJudge(Judge):
    """Also finds examples that the oracle refuses unread.

    What it refuses once it has read a document is found when the example is reached:
    reading all documents of a large file first would take hours.
    """

    def __init__(self, builder: PromptBuilder, planned: Plan, config: SFTConfig):
        # Answers are learned, not scored: the oracle says whether they can be given.
        super().__init__(builder, planned.agent, scored=False)
        self._turns = config.turns
        self._oracle = config.turns.oracle(planned.encoder, planned.agent)

    @property
    def settings(self) -> dict[str, Any]:
        """As of every judge, with all that decides the turns."""
        return super().settings | {"turns": value_text(self._turns)}

    def problem(self, example: Example, *, composed: bool = False) -> str | None:
        """As of every judge; evidence comes with the document."""
        found = super().problem(example, composed=composed)
        if found is None and not composed:
            try:
                self._oracle.check(example)
            except InputError as error:
                found = str(error)
        return found


def told(records: Records, listed: str | None, most: int | None = _LISTED) -> list[str]:
    """A line for each bad record, or for the first ones and the rest together."""
    lines = [each.message(records.name) for each in records.bad[:most]]
    if (more := len(records.bad) - len(lines)) > 0:
        place = f", listed in {listed}" if listed else "; --dry_run lists all"
        lines.append(f"and {more} more{place}")
    return lines


def make_judge(config: TrainConfig | SFTConfig, planned: Plan) -> Judge:
    """The judge of a run's examples."""
    builder = PromptBuilder(planned.encoder, planned.agent.prompt)
    if isinstance(config, SFTConfig):
        return _TurnJudge(builder, planned, config)
    rewards = config.rewards
    scored = rewards.reward_fn is None and rewards.outcome_weight > 0
    return Judge(builder, planned.agent, scored=scored, scoring=rewards.scoring)


def check_data(
    source: ExampleSource,
    judge: Judge,
    directory: PolicyDir,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> DataCheck | None:
    """Judges all records of a finite source, or finds what was found before.

    Args:
      source: of the run.
      judge: of its examples.
      directory: of the policy, whose tokenizer files are part of what is remembered.
      run_dir: may hold a result that had no room beside the file.
      quiet: show no progress.

    Returns:
      What is known; None for a source without end.

    Raises:
      BadRecordsError: bad records are an error to the source, or none is good.
      InputError: the source's file cannot be read.
    """
    if (records := records_of(source)) is None:
        return None
    key, places = None, []
    if isinstance(source, FileSource):
        key = _key(source, judge, directory)
        places = [storage.locate(f"{source.path}{_SUFFIX}")]
        if run_dir is not None:
            places.append(storage.locate(run_dir) / CHECK_FILE)
    judged, bad, listed = _remembered(places, key, records)
    unsaved = None
    if listed is None or judged < len(records.good):
        with _Progress(len(records.good), judged, quiet) as progress:
            try:
                for where, example in records.good[judged:]:
                    problem = judge.problem(example, composed=records.composed)
                    if problem is not None:
                        bad.append(BadRecord(where, example.id, problem))
                    judged += 1
                    progress(judged)
            finally:  # also where Ctrl-C ends it: the next start resumes it
                listed, unsaved = _keep(places[:1], key, records, judged, bad)
    names = {each.where for each in bad}
    whole = dataclasses.replace(
        records,
        good=tuple(item for item in records.good if item[0] not in names),
        bad=tuple(sorted((*records.bad, *bad), key=_numbers)),
    )
    if not whole.good or (whole.bad and on_bad_record(source) == "error"):
        raise BadRecordsError(whole, source, listed)
    return DataCheck(
        records=whole,
        passed_over=frozenset(each.id for each in bad),
        sizes=_sizes(judge, whole),
        listed=listed,
        unsaved=unsaved,
    )


def data_identity(source: ExampleSource) -> dict[str, Any] | None:
    """JSON values that identify the data of a run when it is resumed."""
    if (fingerprint := getattr(source, "fingerprint", None)) is None:
        return None
    records = records_of(source)
    count = None if records is None else len(records)
    return {"sha256": fingerprint(), "records": count}


def keep_in_run(check: DataCheck | None, run_dir: str | os.PathLike[str]) -> None:
    """Writes a result that had no room beside its file into the run folder.

    Raises:
      RunError: it cannot be written.
    """
    if check is None or check.unsaved is None:
        return
    path = storage.locate(run_dir) / CHECK_FILE
    try:
        durable_files.write_atomically(path, check.unsaved)
    except OSError as error:
        raise durable_files.storage_error(path, error) from error


def _numbers(bad: BadRecord) -> list[int]:
    """Orders bad records as they stand in their file."""
    return [int(number) for number in re.findall(r"\d+", bad.where)]


def _key(source: FileSource, judge: Judge, directory: PolicyDir) -> str:
    """sha256 over all that verdicts depend on."""
    files = tokenizer_files(directory)
    own = {
        field.name: repr(getattr(source, field.name))
        for field in dataclasses.fields(source)
        if field.name not in _NOT_JUDGED_BY
    }
    parts = {
        "version": __version__,
        "source": f"{type(source).__module__}.{type(source).__qualname__}",
        "source_settings": own,
        "data": source.fingerprint(),
        "tokenizer": {n: hashlib.sha256(d).hexdigest() for n, d in files.items()},
        "settings": judge.settings,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _remembered(
    places: Sequence[Any], key: str | None, records: Records
) -> tuple[int, list[BadRecord], str | None]:
    """How many good records were judged before, and which of them are bad.

    A file that is damaged, of another format or of another key does not count.
    """
    broken = {each.where for each in records.bad}
    good = {where: example.id for where, example in records.good}
    for place in places:
        try:
            if not storage.is_file(place) or storage.size(place) > _MAX_BYTES:
                continue
            value = json.loads(storage.read_bytes(place))
            if (value["format"], value["key"]) != (_FORMAT, key):
                continue
            judged = value["judged"]
            bad = [
                BadRecord(each["where"], good[each["where"]], each["reason"])
                for each in value["bad"]
                if each["where"] not in broken
            ]
            plain = all(type(b.reason) is str and b.reason.isprintable() for b in bad)
            if type(judged) is int and 0 <= judged <= len(good) and plain:
                return judged, bad, str(place)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
    return 0, [], None


def _keep(
    places: Sequence[Any],
    key: str | None,
    records: Records,
    judged: int,
    bad: Sequence[BadRecord],
) -> tuple[str | None, bytes | None]:
    """Writes what is known so far.

    Returns:
      The name of the file; or the data, where it cannot be written.
    """
    if not places:
        return None, None
    value = {
        "format": _FORMAT,
        "key": key,
        "records": len(records),
        "judged": judged,
        "bad": [e._asdict() for e in sorted((*records.bad, *bad), key=_numbers)],
    }
    data = (json.dumps(value, indent=1) + "\n").encode()
    try:
        durable_files.write_atomically(places[0], data)
    except OSError:  # a read-only folder of data is nothing unusual
        return None, data
    return str(places[0]), None


def _sizes(judge: Judge, records: Records) -> str:
    """Least, median and most of what good records have; of the first, if many."""
    examples = [example for _, example in records.good[:_SIZED_RECORDS]]
    sizes = {"question tokens": [judge.question_tokens(each) for each in examples]}
    counts, room = [], 0 if records.composed else _SIZED_CHARACTERS
    for example in examples:
        room -= len(example.document)
        if room <= 0:
            break
        counts.append(judge.num_chunks(example))
    if counts:
        sizes["chunks"] = counts
    told = [
        f"{name} {min(values)} / {statistics.median_low(values)} / {max(values)}"
        for name, values in sizes.items()
    ]
    return f"{', '.join(told)} (least / median / most)"


class _Progress:
    """A bar on a terminal; in a pipe a line now and then. Called with a count."""

    def __init__(self, total: int, first: int, quiet: bool):
        from rich import progress
        from rich.console import Console

        self._console = Console(stderr=True, quiet=quiet)
        self._total, self._next = total, time.monotonic() + _SECONDS_BETWEEN_LINES
        self._live = self._console.is_terminal and not quiet
        self._bar = progress.Progress(
            progress.TextColumn("judging records"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, completed=first)

    def __enter__(self) -> Callable[[int], None]:
        self._bar.start()
        return self._show

    def __exit__(self, *unused) -> None:
        self._bar.stop()

    def _show(self, done: int) -> None:
        if self._live:
            self._bar.update(self._task, completed=done)
        elif time.monotonic() > self._next:
            self._next += _SECONDS_BETWEEN_LINES
            line = f"judging records: {done} of {self._total}"
            self._console.print(line, highlight=False)
