"""The prepared data of a run, as rank 0 finds them, makes them, or makes them again where others are meant; and the files of the first
preparation that the run keeps for ever (shards.KEPT), by copies in the run dir. Knows no modality."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes.config import Recipe
from recipes.data.contents import RunSoFar, record_of
from recipes.data.shards import KEPT, is_prepared, kept_files, read_values, replaced
from recipes.errors import ConfigError, OtherData
from recipes.modalities.base import Modality
from recipes.run_dir.run_dir import RunDir
from recipes.system.json_lines import read_rows
from recipes.train.begun import DataFacts, acceptance, read_begun

OLD_NO_FILE = re.compile(r" row \d+$| from [\d.]+ s$| [\d.]+ to [\d.]+ s$")
"""Ends of what the user finds a row of a table or a stretch by."""


class RunData:
    """Of one launch in a run dir."""

    def __init__(self, run_dir: RunDir, recipe: Recipe, modality: Modality) -> None:
        """Raises: ConfigError where config.json is damaged."""
        self._owner, self._run_dir, self._recipe, self._modality = run_dir, run_dir.path, recipe, modality
        self._own = self._prepared = self._run_dir / "prepared"
        self._begun = read_begun(self._run_dir)

    def prepare(self, check: Callable[[Path], Any]) -> Path:
        """The prepared folder, found or made. A folder of the run dir that was made from other data is made again where run.accept_changes
        names data.path, and where no update was made. What is new and refused by `check` leaves nothing behind.

        Raises: ConfigError.
        """
        self._restore_kept()
        try:
            return self._prepare(check)
        except OtherData as error:
            if self._recipe.data.path is not None and is_prepared(Path(self._recipe.data.path).expanduser()):
                raise ConfigError(str(error)) from None
            if self._begun and "data.path" not in self._recipe.run.accept_changes:
                raise ConfigError(
                    f"{error.fact}; go back to that, accept the other with --set {acceptance(self._recipe, 'data.path')}, or name another "
                    "--run-dir"
                ) from None
            self._owner.warn(f"{error.fact}; it is prepared again")
        with replaced(self._own):
            return self._prepare(check)

    def leave_kept(self) -> None:
        """Put what the run keeps back into its prepared folder where that is gone: probes read it there."""
        self._restore_kept()
        there = [name for name in self._kept if (self._run_dir / name).exists()]
        if there and not self._own.exists():
            with suppress(OSError):  # a full disk: the run itself has them
                self._own.mkdir()
                for name in there:
                    shutil.copyfile(self._run_dir / name, self._own / name)

    def _prepare(self, check: Callable[[Path], Any]) -> Path:
        if self._own.is_dir() and {path.name for path in self._own.iterdir()} <= KEPT.keys():
            shutil.rmtree(self._own)  # of leave_kept
        is_new = not self._own.exists()
        so_far = RunSoFar(self._run_dir if self._begun else None, self.met_bad)
        prepared = self._modality.prepare(self._recipe, self._own, progress=True, log=print, run=so_far)
        try:
            check(prepared)
            self._check_kept(prepared)
        except ConfigError:
            if is_new:
                shutil.rmtree(self._own, ignore_errors=True)
            raise
        self._prepared = prepared
        return prepared

    @cached_property
    def met_bad(self) -> frozenset[str]:
        """Files that the run could not decode so far, or whose stretches it could not decode."""
        return frozenset(file for file in self._file_of_bad.values() if file)

    @cached_property
    def _file_of_bad(self) -> dict[str, str | None]:
        """Items that the run could not decode so far -> the file of each, None for rows of a table. From events.jsonl."""
        rows, _ = read_rows(self._run_dir / "events.jsonl")
        return {str(row.get("where")): _file_of(row) for row in rows if row.get("event") == "bad_item"}

    def removed(self) -> frozenset[str]:
        """Items that the run could not decode and whose files are gone by now, as the run asked for when it ended."""
        return frozenset(where for where, file in self._file_of_bad.items() if file and _is_gone(file))

    def facts(self, fingerprint: str) -> DataFacts:
        """Of what prepare() found."""
        record = record_of(self._prepared, "contents")
        return DataFacts(fingerprint, record["sha256"] if record else None, kept_files(self._prepared))

    def keep(self) -> None:
        """Copy what belongs to the run for ever, where it is not there. Raises: ConfigError where the disk refuses."""
        for name, sha256 in kept_files(self._prepared).items():
            if _sha256(self._run_dir / name) != sha256:
                self._owner.keep(name, (self._prepared / name).read_bytes())

    @cached_property
    def _kept(self) -> dict[str, str]:
        """Name -> SHA-256. A run of a release that did not write them down has those of the folder with the run's fingerprint."""
        if self._begun is None:
            return {}
        if (noted := self._begun.content.get("kept")) is not None:
            return dict(noted)
        fingerprint = self._begun.content.get("data_fingerprint")
        return next((kept_files(folder) for folder in self._folders() if read_values(folder).get("fingerprint") == fingerprint), {})

    def _folders(self) -> list[Path]:
        """Where the run's files may be."""
        before = self._begun.recipe["data"].get("path") if self._begun else None
        paths = [Path(path).expanduser() for path in (self._recipe.data.path, before) if path is not None]
        return [self._run_dir, self._own, *paths]

    def _restore_kept(self) -> None:
        """Bring lost copies back from where they still are, before that goes."""
        for name, sha256 in self._kept.items():
            found = next((folder / name for folder in self._folders() if _sha256(folder / name) == sha256), None)
            if found and found.parent != self._run_dir:
                self._owner.keep(name, found.read_bytes())

    def _check_kept(self, prepared: Path) -> None:
        """Raises: ConfigError where the data were prepared with others than the run's."""
        now, fingerprint = kept_files(prepared), read_values(prepared).get("fingerprint")
        if self._begun is None or fingerprint == self._begun.content.get("data_fingerprint", fingerprint):
            return
        for name, sha256 in now.items():
            before = self._kept.get(name)
            if before == sha256:
                continue
            copy = self._run_dir / name
            remedy = f"put that file back as {copy}"
            if before is not None and _sha256(copy) == before:
                remedy = f"prepare them again with --set {KEPT[name]}={copy}"
            was = f"sha256 {before[:12]}" if before else "which is not known any more"
            raise ConfigError(
                f"{prepared}: its {name} (sha256 {sha256[:12]}) is not that of the run ({was}), by which it has learned; {remedy}, or name "
                "another --run-dir"
            )


def _file_of(row: dict[str, Any]) -> str | None:
    """Return the file of a bad_item event. An older release wrote none: then it is what the user finds the item by, if that is a path."""
    where = str(row.get("where"))
    return row["file"] if "file" in row else where if where.startswith("/") and not OLD_NO_FILE.search(where) else None


def _is_gone(file: str) -> bool:
    """Whether there is certainly no such file; what is behind a locked folder or a dangling link may come back."""
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
