"""The errors of textdiff.

    TextdiffError
    ├── AskedError     the caller asked for something that cannot be: a value, a file, a combination; also a ValueError
    │   └── RecipeError    the same in a recipe or an override of it
    └── ModelError     a model that cannot be loaded, saved or used

Each message has the value, what was expected and the way out.  An error of another class is a fault of textdiff, or of a
library below it, and not of the person who called.
"""

from __future__ import annotations


class TextdiffError(Exception):
    """Whatever textdiff says of its own accord."""


class AskedError(TextdiffError, ValueError):
    """The caller asked for something that cannot be; the command line ends with exit code 2."""


class RecipeError(AskedError):
    """The recipe, or an override of it, says something that cannot be."""


class ModelError(TextdiffError):
    """A model that cannot be loaded, saved or used; the command line ends with exit code 1."""
