"""Which of a region's files are known to be damaged, and what of: on disk, for a restart proves nothing.

Guarantee: what was found once, by whoever read the file, is known from then on, in every later process too, until there
is another file under its name (set aside, removed or made again). A file that cannot be read, or whose content its
journal contradicts, is not served, not written to and not judged by; the stages that rest on it halt.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from pathlib import Path

import trio

from replicator.errors import Halted
from replicator.storage.atomic_file import replace_file

DAMAGED = "file_damaged"
LOOK_SECONDS = 0.2

log = logging.getLogger("replicator")


class FileDamage:
    """The known damage of one region's files, kept in the file ``path``. ``found`` may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._found: dict[Path, Halted] = {}
        for file, (number, error) in _read(path).items():
            if _number(file) == number:
                self._found[file] = error

    def found(self, file: Path, error: Halted) -> None:
        """The file is damaged. Only the first word on it is kept."""
        with self._lock:
            if file in self._found:
                return
            self._found[file] = error
            log.error("%s", error)
            try:
                self._write()
            except OSError as trouble:  # a full disk keeps nobody from halting now
                log.error("%s: the damage of %s is not remembered beyond a restart: %s", self._path, file, trouble)

    def of(self, *files: Path) -> Halted | None:
        """What is known of any of these files."""
        return next((self._found[file] for file in files if file in self._found), None)

    def check(self, *files: Path) -> None:
        """Raise Halted if one of these files is known to be damaged."""
        error = self.of(*files)
        if error is not None:
            raise Halted(error.reason, error.message, place=error.place, cure=error.cure)

    async def halt(self, *files: Path) -> None:
        """Raise Halted once one of these files is known to be damaged. It never returns."""
        while True:
            self.check(*files)
            await trio.sleep(LOOK_SECONDS)  # it is found in threads, which set no event of trio's

    def forget(self, file: Path) -> None:
        """The file is made again, or was set aside."""
        with self._lock:
            if self._found.pop(file, None) is not None:
                self._write()

    def _write(self) -> None:
        kept = [{"file": str(file), "inode": _number(file), **error.as_json()} for file, error in self._found.items()]
        if kept:
            replace_file(self._path, [json.dumps({"damaged": kept}, indent=1), "\n"])
        else:
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> dict[Path, tuple[int | None, Halted]]:
    """What an earlier process has found; nothing where the note itself cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))["damaged"]
        return {
            Path(one["file"]): (
                one["inode"],
                Halted(one["reason"], one["message"], place=one["place"], cure=one["cure"]),
            )
            for one in kept
        }
    return {}


def _number(file: Path) -> int | None:
    """Which file it is: its inode's number; None if there is none."""
    with contextlib.suppress(OSError):
        return file.stat().st_ino
    return None
