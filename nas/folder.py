"""The folder of a run or a training: its lock, its files, and the manifest that vouches for them.

`manifest.json` has the format of the folder, who wrote it, how its trials train, and size and
SHA-256 of every file that went through `RunFolder.write`. It is written *before* the file, with
what the file will be and what it still is, so a process that dies between the two leaves no file
that looks damaged. Not in it are `study.db`, which SQLite keeps whole, and files that change all
the time and are checked where they are read (`UNLISTED`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from nas.cli import UserError
from nas.conditions import changes
from nas.training.engine import Choice
from nas.untrusted import printable
from search_spaces.files import atomic_write, exclusive, remove_leftovers
from search_spaces.zoo import split_argument

FORMAT = 3
"""Version of the folder. 1 had no manifest, and its number in config.json, if it had one."""

MANIFEST = "manifest.json"
CONFIG = "config.json"
UNLISTED = ("checkpoint.pt", "latency.json")
"""Files of ours that are not in the manifest."""

_MAX_NAME = 255
_PACKAGE = "efficientnet-search"
_STARTED = (CONFIG, "checkpoint.pt", "checkpoint.previous.pt", "model.json")
"""What a folder of format 1 has one of."""


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What tells a file from any other."""

    sha256: str
    size: int
    """Bytes."""

    @classmethod
    def of(cls, content: bytes) -> "Stamp":
        return cls(sha256=hashlib.sha256(content).hexdigest(), size=len(content))

    @classmethod
    def at(cls, path: Path) -> "Stamp | None":
        """None where there is no file."""
        if not path.is_file():
            return None
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(sha256=digest, size=file.tell())


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json."""

    format: int = FORMAT
    package: str = ""
    """Name and version of what wrote it."""
    command: str = ""
    """The command that works in the folder."""
    engine: Choice | None = None
    """How the trials of a run train; None where none of ours does, or in folders from before there
    was a choice."""
    files: dict[str, tuple[Stamp, ...]] = field(default_factory=dict)
    """By path in the folder: the file as it was written last, then as it was before, which it still
    is where the last write was cut off."""

    def __post_init__(self) -> None:
        for name in self.files:
            path = PurePosixPath(name)
            inside = path.name and not path.is_absolute() and ".." not in path.parts
            if not inside or not name.isprintable() or len(name) > _MAX_NAME:
                raise ValueError(f"{printable(name, 80)!r} is no name of a file in the folder")

    def vouches(self, name: str, stamp: Stamp | None) -> bool:
        """Whether a file is as it was written, as far as is known."""
        return stamp is None or name not in self.files or stamp in self.files[name]


class RunFolder:
    """A folder that one process at a time works in, bound to one set of conditions.

    Use as a context manager; the lock goes with the process, however it ends.

    Args:
        path: The folder; it is made.
        command: What works in it, such as `nas.run`; empty for who only looks.
        flag: What names it, for messages.
    """

    def __init__(self, path: Path, command: str = "", flag: str = "--run-dir") -> None:
        self.path = path
        self._command, self._flag = command, flag

    def __enter__(self) -> "RunFolder":
        """Lock the folder, and remove what a killed process left half written.

        Raises:
            FolderError: It cannot be written, or another process holds it.
            UserError: It is of another command or a newer format, or its manifest cannot be read.
        """
        self._lock = exclusive(self.path, self._flag)
        self._lock.__enter__()
        try:
            self._manifest = self._read()
            for name in (MANIFEST, *UNLISTED, *(self._manifest or Manifest()).files):
                remove_leftovers(self.path / name)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__(None, None, None)

    @property
    def database(self) -> Path:
        return self.path / "study.db"

    def start(self) -> None:
        """Take the folder for this format, before anything else is written to it.

        What a folder of format 1 holds stays; a line says so.
        """
        if self._manifest is not None:
            return
        if any((self.path / name).exists() for name in _STARTED):
            print(f"note    {self.path} was written in format 1 and goes on in format {FORMAT}")
        self._save({})

    def bind(
        self,
        conditions: Mapping[str, Any],
        settings: Mapping[str, Any],
        engine: Choice | None = None,
    ) -> bool:
        """Write, or compare with, the conditions that make trials comparable.

        Args:
            conditions: What must not change between starts (space, target, data, ...).
            settings: The rest of the command, kept for the reader.
            engine: How trials train; recorded once, when the run begins.

        Returns:
            Whether the folder held a run already.

        Raises:
            UserError: The folder was started under other conditions; the message names them.
        """
        begun = self.compare(conditions)
        self.start()
        if not begun and engine is not None:
            self._save(self._files, engine)
        content = {"conditions": dict(conditions), "settings": dict(settings)}
        self.write(CONFIG, json.dumps(content, indent=2, default=str) + "\n")
        return begun

    def compare(self, conditions: Mapping[str, Any]) -> bool:
        """Whether the folder holds a run already; nothing is written, and no lock is needed.

        Raises:
            UserError: The run was started under other conditions; the message names them.
        """
        self._manifest = self._read()
        old = self._conditions()
        new = json.loads(json.dumps(dict(conditions)))
        if old is None:
            return False
        if changed := changes(old, new):
            raise UserError(
                f"{self.path} was started with other conditions: {'; '.join(changed)}. "
                f"Its trials would not compare. Restore them, or choose a new {self._flag}."
            )
        return True

    def settings(self) -> dict[str, Any]:
        """The settings of the last start that were no conditions; empty for a fresh folder."""
        self._manifest = self._read()
        content = self._config()
        return {} if content is None else content["settings"]

    def check(self) -> None:
        """Refuse the manifest as `__enter__` does; nothing is written, and no lock is needed.

        Raises:
            UserError: It is of another command or a newer format, or cannot be read.
        """
        self._read()

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of the folder, whole or not at all."""
        path, data = self.path / name, content.encode() if isinstance(content, str) else content
        files = self._files
        known, new, old = files.get(name), Stamp.of(data), Stamp.at(path)
        # What was damaged or edited since stays without a voucher until it is replaced.
        kept = (old,) if old not in (None, new) and (known is None or old in known) else ()
        if known != (new, *kept):
            self._save({**files, name: (new, *kept)})
        if old != new:
            atomic_write(path, data)
        return path

    @property
    def _files(self) -> dict[str, tuple[Stamp, ...]]:
        return {} if self._manifest is None else self._manifest.files

    def _conditions(self) -> dict[str, Any] | None:
        """Those that the folder was started under; None for a fresh folder."""
        content = self._config()
        if content is None:
            return None
        conditions = content["conditions"]
        self._refuse_newer(conditions.pop("format", 1), "another version")
        return conditions

    def _config(self) -> dict[str, dict[str, Any]] | None:
        """What config.json says; None for a fresh folder."""
        file = self.path / CONFIG
        if not file.exists():
            return None
        if self._manifest is not None and not self._manifest.vouches(CONFIG, Stamp.at(file)):
            raise UserError(
                f"{_differs(file, self._manifest)}: it was damaged or edited. Restore it, or "
                f"choose another {self._flag}."
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            parts = {"conditions": content["conditions"], "settings": content.get("settings", {})}
            return {name: dict(part) for name, part in parts.items()}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{file} is not readable ({error}); choose another {self._flag}."
            ) from error

    def _read(self) -> Manifest | None:
        """What the folder's manifest says; None for a folder without."""
        file = self.path / MANIFEST
        try:
            fields = json.loads(file.read_bytes())
            version, package = fields["format"], fields["package"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise _unreadable(file, error) from error
        self._refuse_newer(version, package)
        try:
            manifest = read_manifest(file)
        except ValueError as error:
            raise _unreadable(file, error) from error
        if manifest.command and self._command not in ("", manifest.command):
            raise UserError(
                f"{self.path} is the folder of a run of {printable(manifest.command, 80)}. "
                f"Choose another {self._flag}."
            )
        return manifest

    def _refuse_newer(self, version: object, package: object) -> None:
        if not isinstance(version, int) or version > FORMAT:
            raise UserError(
                f"{self.path} was written in format {printable(version, 20)} of "
                f"{printable(package, 80)}; this is format {FORMAT}: update, or choose another "
                f"{self._flag}."
            )

    def _save(self, files: dict[str, tuple[Stamp, ...]], engine: Choice | None = None) -> None:
        if engine is None and self._manifest is not None:
            engine = self._manifest.engine
        manifest = Manifest(package=_package(), command=self._command, engine=engine, files=files)
        atomic_write(self.path / MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")
        self._manifest = manifest


def begun_engine(path: Path) -> Choice | None:
    """How the trials of the folder at `path` train; None where no run was begun.

    One that was begun before there was a choice trains as by default.

    Raises:
        UserError: The folder is of a newer format, or its manifest cannot be read.
    """
    if not (path / CONFIG).exists():
        return None
    manifest = RunFolder(path)._read()
    return (manifest and manifest.engine) or Choice()


def read_manifest(file: Path) -> Manifest:
    """What a manifest.json says.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none of this format.
    """
    return TypeAdapter(Manifest).validate_json(file.read_bytes())


def warn_of_changes(*arguments: str | Path | None) -> None:
    """Print a line for every file that differs from what the command in its folder wrote.

    It may have been edited, which is the user's right, or damaged.

    Args:
        arguments: What flags name: files, a builder with a file, or anything else.
    """
    for argument in filter(None, arguments):
        file = Path(split_argument(str(argument))[1])
        for folder in (file.parent, file.parent.parent):
            try:
                manifest = read_manifest(folder / MANIFEST)
                is_known = manifest.vouches(file.relative_to(folder).as_posix(), Stamp.at(file))
            except (OSError, ValueError):
                continue  # nothing is known of the file; who reads it says what is wrong
            if not is_known:
                print(f"WARNING {_differs(file, manifest)}: it was edited or damaged since")
            break


def _differs(file: Path, manifest: Manifest) -> str:
    writer = printable(manifest.command or manifest.package, 80)
    return f"{file} differs from what {writer} wrote (SHA-256 in {MANIFEST})"


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{file} is not readable ({printable(error, 200)}). Restore it; or remove it, and the "
        "folder's files are taken as they are."
    )


def _package() -> str:
    try:
        return f"{_PACKAGE} {metadata.version(_PACKAGE)}"
    except metadata.PackageNotFoundError:
        return f"{_PACKAGE} (from its source)"
