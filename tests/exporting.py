"""Runs the export as its users do, for tests."""

from pathlib import Path

from nas.export import main


def export(*args: object) -> int:
    """The command with these flags; its status."""
    return main([str(arg) for arg in args])


def files(folder: Path) -> list[str]:
    """Names of what is in a folder; nothing where there is none."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
