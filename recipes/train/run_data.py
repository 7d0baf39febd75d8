"""The prepared data of a run. Rank 0 finds them, prepares them, or prepares them again if the recipe names other data. Independent of the
modality.

Kept files (shards.KEPT) are those of the first preparation that the run needs permanently, such as the tokenizer. The run dir has
copies."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes.check import check_data
from recipes.config import Recipe
from recipes.data.contents import ContentChanges, ResumedRun, record_of
from recipes.data.shards import KEPT, encoding_of, is_prepared, kept_files, read_values, recorded_encoding
from recipes.errors import ConfigError, DataMismatch
from recipes.modalities.base import DataSource
from recipes.run_dir.run_dir import RunDir, StoredConfig
from recipes.system.atomic_folder import moved_aside, undo_moved_aside
from recipes.system.json_lines import read_rows
from recipes.train.origin import Origin, check_not_lost, check_prepared_with, with_kept
from recipes.train.resume import DataIdentity, accept_setting, read_started_run
from recipes.train.waiting import check_not_waiting

OLD_NO_FILE = re.compile(r" row \d+$| from [\d.]+ s$| [\d.]+ to [\d.]+ s$")
"""Matches the end of a bad item's location that is a row of a table or a segment of a recording, so that no file can be named."""
MAX_NAMED = 100
"""Maximum number of changed files, and of missing ones, that an event names."""


class RunData:
    """Finds or prepares the data of one launch, and keeps the run's permanent files, such as the tokenizer. Only rank 0 has this object."""

    def __init__(
        self,
        run_dir: RunDir,
        recipe: Recipe,
        source: DataSource,
        origin: Origin | None = None,
        *,
        num_ranks: int = 1,
        command: Sequence[str] = (),
    ) -> None:
        """Read the stored configuration of the run in `run_dir`, if an update was done there. `origin`: the checkpoint of another run with
        whose weights this run began or begins; the data are prepared with its permanent files. `num_ranks`: how many ranks wait while data
        are prepared; `command`: the words of this launch's command. Raises: ConfigError if config.json is damaged."""
        self._num_ranks, self._command = num_ranks, command
        self._origin = origin
        self._run_dir, self._path, self._recipe, self._source = run_dir, run_dir.path, recipe, source
        self._own_folder = self._prepared = self._path / "prepared"
        self._started = read_started_run(self._path)

    def prepare(self, check: Callable[[Path], Any]) -> Path:
        """Return the folder of the prepared data. Prepare them if needed.

        If the run dir's folder was made from other data, it is made again, provided that run.accept_changes names data.path or the run
        has no update yet. `check` is called with the folder. If it raises ConfigError, a folder that is new is removed.

        Raises: ConfigError if the data cannot be used or are not those of the run.
        """
        undo_moved_aside(self._own_folder)
        self._restore_kept_files()
        try:
            return self._prepare(check)
        except DataMismatch as error:
            if self._recipe.data.path is not None and is_prepared(Path(self._recipe.data.path).expanduser()):
                raise ConfigError(str(error)) from None
            if self._started:
                _check_accepted(error, self._recipe)
            self._run_dir.warn(f"{error.without_remedy}; it is prepared again")
        with moved_aside(self._own_folder):
            return self._prepare(check)

    def copy_kept_to_prepared(self) -> None:
        """If the run's prepared folder was deleted, make it with the run's permanent files, such as the tokenizer: probes read them
        there."""
        undo_moved_aside(self._own_folder)
        self._restore_kept_files()
        there = [name for name in self._kept_hashes if (self._path / name).exists()]
        if there and not self._own_folder.exists():
            with suppress(OSError):  # a full disk: the run dir still has them
                self._own_folder.mkdir()
                for name in there:
                    shutil.copyfile(self._path / name, self._own_folder / name)

    def _prepare(self, check: Callable[[Path], Any]) -> Path:
        if self._own_folder.is_dir() and {path.name for path in self._own_folder.iterdir()} <= KEPT.keys():
            shutil.rmtree(self._own_folder)  # made by copy_kept_to_prepared
        is_new = not self._own_folder.exists()
        recipe = _with_files_of_run(self._recipe, self._path, self._origin, self._started, self._kept_hashes)
        if is_new and self._started is None and not (recipe.data.path and is_prepared(Path(recipe.data.path).expanduser())):
            kept = self._origin.own_kept(self._path) if self._origin else {}
            settings = {KEPT[name]: path for name, path in kept.items()}
            check_not_waiting(recipe, self._own_folder, self._num_ranks, command=self._command, kept=settings)
        so_far = ResumedRun(self._path if self._started else None, self.recorded_bad, self._report_changes, self._encoding())
        prepared = self._source.prepare(recipe, self._own_folder, progress=True, log=print, run=so_far)
        try:
            check(prepared)
            self._check_kept_files(prepared)
        except ConfigError:
            if is_new:
                shutil.rmtree(self._own_folder, ignore_errors=True)
            raise
        self._prepared = prepared
        return prepared

    def _encoding(self) -> int | None:
        """Return the version of the rules by which the run's text became tokens. A run of an older release did not record it and has the
        first. None if no run has begun."""
        return recorded_encoding(self._started.content) if self._started else None

    def _report_changes(self, changes: ContentChanges) -> None:
        names = {"changed": (*changes.changed, *changes.fixed), "missing": changes.missing}
        counts = {f"num_{kind}": len(paths) for kind, paths in names.items()}
        some = {kind: paths[:MAX_NAMED] for kind, paths in names.items()}
        self._run_dir.event("data_change", num_compared=changes.num_compared, **counts, **some)

    @cached_property
    def recorded_bad(self) -> frozenset[str]:
        """Paths of the files that the run could not decode so far, as a whole or in part, from events.jsonl."""
        return frozenset(file for file in self._file_of_bad.values() if file)

    @cached_property
    def _file_of_bad(self) -> dict[str, str | None]:
        return _read_bad(self._path)

    def removed(self) -> frozenset[str]:
        """Return the locations of bad items whose files are gone: the user removed them, as the run's error message asked."""
        return frozenset(where for where, file in self._file_of_bad.items() if file and _is_gone(file))

    def identity(self, fingerprint: str) -> DataIdentity:
        """Return the hashes that identify the data which prepare() returned. `fingerprint`: the data set's own hash."""
        record = record_of(self._prepared, "contents")
        return DataIdentity(fingerprint, record["sha256"] if record else None, kept_files(self._prepared), encoding_of(self._prepared))

    def keep(self) -> None:
        """Copy the files that the run needs permanently, such as the tokenizer, to the run dir if they are missing or different there.
        Remove those of an earlier start without an update that this one replaces. Raises: ConfigError if they cannot be written."""
        kept = kept_files(self._prepared)
        for name, sha256 in kept.items():
            if _sha256(self._path / name) != sha256:
                self._run_dir.keep(name, (self._prepared / name).read_bytes())
        for name in KEPT.keys() - kept.keys():
            (self._path / name).unlink(missing_ok=True)

    @cached_property
    def _kept_hashes(self) -> dict[str, str]:
        """The files that the run needs permanently -> their SHA-256, from the run's configuration. If an older release did not record the
        hashes, they are computed from a folder with the run's fingerprint. {} if no run has begun."""
        if self._started is None:
            return {}
        if (recorded := self._started.content.get("kept")) is not None:
            return dict(recorded)
        fingerprint = self._started.content.get("data_fingerprint")
        return next((kept_files(folder) for folder in self._folders() if read_values(folder).get("fingerprint") == fingerprint), {})

    def _folders(self) -> list[Path]:
        """Return the folders that may hold the run's permanent files, in this order: the run dir, its prepared folder, this launch's
        data.path, and the data.path in the run's configuration."""
        before = self._started.recipe["data"].get("path") if self._started else None
        paths = [Path(path).expanduser() for path in (self._recipe.data.path, before) if path is not None]
        return [self._path, self._own_folder, *paths]

    def _restore_kept_files(self) -> None:
        """Copy each permanent file, such as the tokenizer, into the run dir if it is missing or different there and another folder of
        the run still has it. Call it before the prepared folder is replaced."""
        for name, sha256 in self._kept_hashes.items():
            found = next((folder / name for folder in self._folders() if _sha256(folder / name) == sha256), None)
            if found and found.parent != self._path:
                self._run_dir.keep(name, found.read_bytes())

    def _check_kept_files(self, prepared: Path) -> None:
        """Check that newly prepared data use the same permanent files, such as the tokenizer, as the run. Raises: ConfigError if they do
        not."""
        now, fingerprint = kept_files(prepared), read_values(prepared).get("fingerprint")
        if self._started is None or fingerprint == self._started.content.get("data_fingerprint", fingerprint):
            return
        for name, sha256 in now.items():
            own = name if name in self._kept_hashes else next(iter(self._kept_hashes), name)
            before = self._kept_hashes.get(own)
            if before == sha256:
                continue
            copy = self._path / own
            remedy = f"put that file back as {copy}"
            if before is not None and _sha256(copy) == before:
                remedy = f"prepare them again with --set {KEPT[name]}={copy}"
            was = f"sha256 {before[:12]}" if before else "of unknown sha256"
            raise ConfigError(
                f"{prepared}: its {name} (sha256 {sha256[:12]}) is not that of the run ({was}), with which it was trained; {remedy}, or "
                "name another --run-dir"
            )


def _with_files_of_run(
    recipe: Recipe, run_dir: Path, origin: Origin | None, started: StoredConfig | None, kept: Mapping[str, str]
) -> Recipe:
    """Return the recipe for preparing the run's data, with the permanent files of `origin`. `started`: the stored configuration of a run
    that has begun; `kept`: its permanent files.

    Raises: ConfigError if data.path is a prepared folder that was made with others, or if the run was imported without its own.
    """
    given = origin.own_kept(run_dir) if origin else {}
    if recipe.data.path is not None:
        check_prepared_with(Path(recipe.data.path).expanduser(), given)
    if started:
        check_not_lost(started.content, kept, recipe, f"--run-dir {run_dir}")
    return with_kept(recipe, given)


def check_run_data(run_dir: Path, recipe: Recipe, source: DataSource, origin: Origin | None = None) -> str:
    """Check the data that a launch in `run_dir` would use, without preparing any. Return a line that says what is read, or "". `origin`:
    see RunData.

    A launch reads the run dir's prepared folder if there is one and data.path is no prepared folder itself; else the recipe's data.
    Raises: ConfigError if the data cannot be used or are not those of the run.
    """
    own, started = run_dir / "prepared", read_started_run(run_dir)
    recipe = _with_files_of_run(recipe, run_dir, origin, started, (started.content.get("kept") if started else None) or {})
    if not is_prepared(own) or (recipe.data.path is not None and is_prepared(Path(recipe.data.path).expanduser())):
        return check_data(recipe)
    try:
        source.prepare(recipe, own, run=ResumedRun(run_dir if started else None, frozenset(filter(None, _read_bad(run_dir).values()))))
    except DataMismatch as error:
        if started:
            _check_accepted(error, recipe)
        return check_data(recipe)  # a launch prepares it again
    return f"{own}, prepared by an earlier launch"


def _check_accepted(error: DataMismatch, recipe: Recipe) -> None:
    """Check that the user has accepted other data for a run that has begun (data.path in run.accept_changes). Raises: ConfigError if
    not."""
    if "data.path" not in recipe.run.accept_changes:
        accept = accept_setting(recipe, "data.path")
        raise ConfigError(
            f"{error.without_remedy}; go back to that, accept the other with --set {accept}, or name another --run-dir"
        ) from None


def _read_bad(run_dir: Path) -> dict[str, str | None]:
    """Return the items that the run could not decode so far, from events.jsonl: location -> path of the file, None if it has none."""
    rows, _ = read_rows(run_dir / "events.jsonl")
    return {str(row.get("where")): _file_of(row) for row in rows if row.get("event") == "bad_item"}


def _file_of(row: dict[str, Any]) -> str | None:
    """Return the path of the file that the bad_item event `row` is about; None if the item is no file.

    An event of an older release does not name the file. Then the item's location is returned if that is a path.
    """
    where = str(row.get("where"))
    return row["file"] if "file" in row else where if where.startswith("/") and not OLD_NO_FILE.search(where) else None


def _is_gone(file: str) -> bool:
    """True if the file is certainly missing. False for a file in an unreadable folder and for a broken link."""
    try:
        os.lstat(file)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
