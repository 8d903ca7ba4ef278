"""Every fault that a run must survive, and every rule of security, has a test named after it.

`test_row_7_...` proves row 7 of the fault matrix, `test_rule_links_...` the rule on links. What
each asks for is in the project's reliability rules; the words here are a reminder.
"""

import ast
import re
from pathlib import Path

import pytest

ROWS = {
    1: "kill -9 of the driver: the same command goes on, finished trials are never run again",
    2: "what Ray leaves after a kill is found and named; no lock or GPU is held",
    3: "kill -9 of a worker: a counted retry",
    4: "host out of memory: `oom`, once more at half the batch",
    5: "CUDA out of memory: the same",
    6: "NaN or infinite loss: stopped at that step, failed, never ranked",
    7: "a trial that hangs: wall-clock limit",
    8: "every trial fails: stop, first traceback, status not zero",
    9: "truncated, empty and other files: all named; --skip-bad lists them",
    10: "16-bit and float images: scaled or refused",
    11: "L, LA, P, RGBA, 1, CMYK, WebP, EXIF rotation: one rule",
    12: "animations: first frame and one notice",
    13: "decompression bombs: refused by their header",
    14: "empty classes, strange classes, one class, fewer than 2 images",
    15: "the same image in train and val: counted",
    16: "disk full: the study intact, a clean end, it goes on",
    17: "output not writable: an end before anything is read",
    18: "a checkpoint half written",
    19: "a bit flipped in weights",
    20: "two drivers on one run: the first one's process named; free after kill -9",
    21: "the database locked: 30 s, then a message",
    22: "other space, target, metric: refused with the difference",
    23: "other images: refused",
    24: "Ctrl-C: first saves and says how to go on, 130; second: now",
    25: "SIGTERM: the same, 143",
    26: "the clock jumps: durations do not",
    27: "fewer GPUs on resume: never pending for ever",
    28: "a node lost: its trials again",
    29: "a run folder of an older version",
}
RULES = {
    "weights": "safetensors and JSON, in and out",
    "pickle": "nothing is unpickled that a user names; torch.load with weights_only",
    "ray": "2.60 or newer, a cluster by --ray-address only, no dashboard",
    "formats": "JSON, TOML or safe YAML; no archive is unpacked",
    "names": "names of classes and files are shown escaped, and are no paths",
    "links": "symbolic links stay inside a data set's folder",
    "html": "no report is HTML; Markdown holds none",
}

_ROW = re.compile(r"test_row_0?([1-9]\d?)(?=_)")
_RULE = re.compile(r"test_rule_([a-z]+)_")


def _names() -> list[str]:
    """Of all test functions beside those here."""
    return [
        node.name
        for file in Path(__file__).parent.glob("test_*.py")
        if file != Path(__file__)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_test(row: int) -> None:
    proven = {int(found[1]) for name in _names() if (found := _ROW.match(name))}
    assert row in proven, f"no test is named test_row_{row}_...: {ROWS[row]}"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_test(rule: str) -> None:
    proven = {found[1] for name in _names() if (found := _RULE.match(name))}
    assert rule in proven, f"no test is named test_rule_{rule}_...: {RULES[rule]}"


def test_no_test_is_named_after_what_is_not_there() -> None:
    claimed = [name for name in _names() if name.startswith(("test_row_", "test_rule_"))]
    rows = [found and int(found[1]) for found in map(_ROW.match, claimed)]
    rules = [found and found[1] for found in map(_RULE.match, claimed)]
    strangers = [
        name
        for name, row, rule in zip(claimed, rows, rules, strict=True)
        if row not in ROWS and rule not in RULES
    ]
    assert strangers == []
