"""The prepared data of a run. Rank 0 finds them, prepares them, or prepares them again if the recipe names other data. Independent of the
modality.

Kept files (shards.KEPT) are those of the first preparation that the run needs permanently, such as the tokenizer. The run dir has
copies."""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes.config import Recipe
from recipes.data.contents import ContentChanges, RunSoFar, record_of
from recipes.data.shards import KEPT, is_prepared, kept_files, read_values, replaced
from recipes.errors import ConfigError, OtherData
from recipes.modalities.base import Modality
from recipes.run_dir.run_dir import RunDir
from recipes.system.json_lines import read_rows
from recipes.train.begun import DataIdentity, accept_setting, read_started_run

MAX_NAMED = 100
"""Maximum number of changed files, and of missing ones, that an event names."""


class RunData:
    """The prepared data of one launch in a run dir."""

    def __init__(self, run_dir: RunDir, recipe: Recipe, modality: Modality) -> None:
        """Raises: ConfigError if config.json is damaged."""
        self._run_dir, self._path, self._recipe, self._modality = run_dir, run_dir.path, recipe, modality
        self._own_folder = self._prepared = self._path / "prepared"
        self._started = read_started_run(self._path)

    def prepare(self, check: Callable[[Path], Any]) -> Path:
        """Return the prepared folder, found or made.

        A folder in the run dir that was made from other data is made again if run.accept_changes names data.path, or if the run has
        no update yet. A new folder that `check` refuses is removed.

        Raises: ConfigError.
        """
        self._restore_kept_files()
        try:
            return self._prepare(check)
        except OtherData as error:
            if self._recipe.data.path is not None and is_prepared(Path(self._recipe.data.path).expanduser()):
                raise ConfigError(str(error)) from None
            if self._started and "data.path" not in self._recipe.run.accept_changes:
                raise ConfigError(
                    f"{error.fact}; go back to that, accept the other with --set {accept_setting(self._recipe, 'data.path')}, or name "
                    "another --run-dir"
                ) from None
            self._run_dir.warn(f"{error.fact}; it is prepared again")
        with replaced(self._own_folder):
            return self._prepare(check)

    def copy_kept_to_prepared(self) -> None:
        """Copy the kept files to the run's prepared folder if that folder is gone: probes read them there."""
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
        so_far = RunSoFar(self._path if self._started else None, self.recorded_bad, self._report_changes)
        prepared = self._modality.prepare(self._recipe, self._own_folder, progress=True, log=print, run=so_far)
        try:
            check(prepared)
            self._check_kept_files(prepared)
        except ConfigError:
            if is_new:
                shutil.rmtree(self._own_folder, ignore_errors=True)
            raise
        self._prepared = prepared
        return prepared

    def _report_changes(self, changes: ContentChanges) -> None:
        names = {"changed": (*changes.changed, *changes.fixed), "missing": changes.missing}
        counts = {f"num_{kind}": len(paths) for kind, paths in names.items()}
        some = {kind: paths[:MAX_NAMED] for kind, paths in names.items()}
        self._run_dir.event("data_change", num_compared=changes.num_compared, **counts, **some)

    @cached_property
    def recorded_bad(self) -> frozenset[str]:
        """Items that the run could not decode so far, from events.jsonl."""
        rows, _ = read_rows(self._path / "events.jsonl")
        return frozenset(str(row.get("where")) for row in rows if row.get("event") == "bad_item")

    def removed(self) -> frozenset[str]:
        """Return the recorded bad items whose files are gone: the user removed them, as the run's error message asked."""
        return frozenset(where for where in self.recorded_bad if where.startswith("/") and not Path(where).exists())

    def identity(self, fingerprint: str) -> DataIdentity:
        """Return the hashes of the data that prepare() returned."""
        record = record_of(self._prepared, "contents")
        return DataIdentity(fingerprint, record["sha256"] if record else None, kept_files(self._prepared))

    def keep(self) -> None:
        """Copy the kept files to the run dir if they are missing there. Raises: ConfigError if they cannot be written."""
        for name, sha256 in kept_files(self._prepared).items():
            if _sha256(self._path / name) != sha256:
                self._run_dir.keep(name, (self._prepared / name).read_bytes())

    @cached_property
    def _kept_hashes(self) -> dict[str, str]:
        """Kept file -> SHA-256, from the run's configuration. Older releases did not record them; then they are computed from the folder
        with the run's fingerprint."""
        if self._started is None:
            return {}
        if (recorded := self._started.content.get("kept")) is not None:
            return dict(recorded)
        fingerprint = self._started.content.get("data_fingerprint")
        return next((kept_files(folder) for folder in self._folders() if read_values(folder).get("fingerprint") == fingerprint), {})

    def _folders(self) -> list[Path]:
        """Return the folders that may hold the kept files."""
        before = self._started.recipe["data"].get("path") if self._started else None
        paths = [Path(path).expanduser() for path in (self._recipe.data.path, before) if path is not None]
        return [self._path, self._own_folder, *paths]

    def _restore_kept_files(self) -> None:
        """Restore missing kept files in the run dir from another folder that still has them, before that folder is replaced."""
        for name, sha256 in self._kept_hashes.items():
            found = next((folder / name for folder in self._folders() if _sha256(folder / name) == sha256), None)
            if found and found.parent != self._path:
                self._run_dir.keep(name, found.read_bytes())

    def _check_kept_files(self, prepared: Path) -> None:
        """Raises: ConfigError if the data were prepared with other kept files than those of the run."""
        now, fingerprint = kept_files(prepared), read_values(prepared).get("fingerprint")
        if self._started is None or fingerprint == self._started.content.get("data_fingerprint", fingerprint):
            return
        for name, sha256 in now.items():
            before = self._kept_hashes.get(name)
            if before == sha256:
                continue
            copy = self._path / name
            remedy = f"put that file back as {copy}"
            if before is not None and _sha256(copy) == before:
                remedy = f"prepare them again with --set {KEPT[name]}={copy}"
            was = f"sha256 {before[:12]}" if before else "of unknown sha256"
            raise ConfigError(
                f"{prepared}: its {name} (sha256 {sha256[:12]}) is not that of the run ({was}), with which it was trained; {remedy}, or "
                "name another --run-dir"
            )


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
