"""Runs `scaling_search.family` as its users do, for tests."""

from scaling_search.family import main

B0 = ["--baseline", "efficientnet-b0"]
PAPER = ["--alpha", "1.2", "--beta", "1.1", "--gamma", "1.15"]


def run_family(argv: list[str]) -> int:
    """The command with these flags, nothing measured; its status."""
    return main([*argv, "--no-measure"])
