"""Objects that the user names as ``my_module:name``, from the working directory too."""

import importlib
import sys
from typing import Any


class UnresolvedError(ValueError):
    """A reference of another form, or one that leads nowhere."""


def load_object(reference: str, what: str) -> Any:
    """The object that ``my_module:name`` names; this imports, and so runs, the module.

    Args:
        reference: Module and attribute. The working directory is searched too.
        what: What names it, such as `--evaluator`, for the error messages.

    Raises:
        UnresolvedError: The reference has another form, or does not import.
    """
    module_name, _, attribute = reference.partition(":")
    if not (module_name and attribute):
        raise UnresolvedError(
            f"`{what}` must have the form my_module:function, but got {reference!r}."
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise UnresolvedError(f"`{what} {reference}` does not import: {error}.") from error
    if not hasattr(module, attribute):
        raise UnresolvedError(f"`{what}`: module {module_name} has no {attribute!r}.")
    return getattr(module, attribute)
