"""Words that others chose, such as names of classes, files and networks, made safe to show.

A terminal obeys control characters, a spreadsheet computes what begins with `=`, and readers of
Markdown run HTML.
"""

import html
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|"})


def printable(text: object, limit: int | None = None) -> str:
    """`text` with control and other unprintable characters escaped, as `repr` does.

    Args:
        text: Anything with a `str`.
        limit: Characters at most; what is cut off leaves a `…`.
    """
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def printable_lines(text: object) -> str:
    """The same for text of several lines, which stay lines."""
    return "\n".join(map(printable, str(text).split("\n")))


def csv_text(frame: "pd.DataFrame") -> str:
    """A table as CSV without its index, where no text is a formula to a spreadsheet.

    Text that begins like one (`= + - @`, tab, return) and is no number gets a `'` in front, and
    control characters are escaped. Numbers are as they were.
    """
    from pandas.api.types import is_numeric_dtype

    quoted = frame.rename(columns=_csv_cell)
    for i, kind in enumerate(frame.dtypes):
        if not is_numeric_dtype(kind):
            quoted.isetitem(i, frame.iloc[:, i].map(_csv_cell))
    return quoted.to_csv(index=False)


def markdown_text(text: object) -> str:
    """`text` that is words and nothing else in a line or a table's cell of Markdown."""
    return html.escape(printable(text).translate(_MARKDOWN), quote=False)


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if value.startswith(_FORMULA) and not _is_number(value) else shown


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
