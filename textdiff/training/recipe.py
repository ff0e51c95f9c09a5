"""A recipe: YAML read into frozen dataclasses (sections.py), with dotted overrides, and checked (checking.py).

Unknown keys are errors that name the nearest known one.  The recipe names files and numbers only; nothing in it is imported
or executed.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from textdiff.core.errors import RecipeError
from textdiff.training import packaged
from textdiff.training.checking import check
from textdiff.training.sections import Recipe, to_yaml

__all__ = ["Recipe", "load", "to_yaml"]


LARGEST = 1 << 20  # bytes of a recipe
DEEPEST = 20  # sections in one another
_QUOTED = re.compile(r"""'([^']|'')*'|"([^"\\]|\\.)*\"""")  # as YAML quotes a text


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """The recipe of a YAML file, or of the package, with "a.b=c" overrides; RecipeError tells what is wrong and where."""
    path = packaged.find(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(
            f"recipe {str(path)!r} cannot be read ({error.strerror or error}); name a YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {str(path)!r} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if len(content) > LARGEST:
        raise RecipeError(f"recipe {str(path)!r} is larger than {LARGEST} bytes, which no recipe is; name a YAML file")
    tree = _parsed(text, f"recipe {str(path)!r}")
    if not isinstance(tree, dict):
        content_ = "nothing" if tree is None else type(tree).__name__
        raise RecipeError(f"recipe {str(path)!r} holds {content_}; expected keys such as data, model, run")
    for override in overrides or []:
        _override(tree, override)
    tree.setdefault("name", path.stem)
    recipe: Recipe = _build(Recipe, tree, "")
    check(recipe)
    return recipe


class _Refused(yaml.YAMLError):
    """YAML that is well formed, and yet no recipe."""


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice, nothing is an alias, and nothing is nested deeper than DEEPEST."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _Refused(
                f"line {event.start_mark.line + 1} has an alias, *{event.anchor}; write out what it stands for"
            )
        self.depth += 1
        if self.depth > DEEPEST:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise _Refused(f"line {line} is nested more than {DEEPEST} levels deep; a recipe has sections and keys")
        node = yaml.SafeLoader.compose_node(self, parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and key.value in lines:
                    raise _Refused(
                        f"key {key.value!r} stands in line {lines[key.value]} and again in line {line}; keep one"
                    )
                if isinstance(key, yaml.ScalarNode):
                    lines[key.value] = line
        return node


def _parsed(text: str, where: str) -> Any:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except _Refused as error:
        raise RecipeError(f"{where}: {error}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML leaves impossible dates and numbers to Python
        raise RecipeError(f"{where} is not YAML: {shortened(' '.join(str(error).split()), 300)}") from error


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(
            f"override {shortened(override)!r} has no '='; write it as section.key=value, for example run.steps=100"
        )
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"override {shortened(override)!r}: {section!r} is a value, not a section")
    where = f"override {shortened(override)!r}: the value"
    tree[last] = _word(value, where) if _takes_text(key) else _parsed(value, where)


def _takes_text(key: str) -> bool:
    """Whether a key of a recipe has a text as its value."""
    hint: Any = Recipe
    for name in key.split("."):
        hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
    return str in (hint, *(typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()))


def _word(value: str, where: str) -> Any:
    """A text as it stands on the command line, where YAML would see dates, comments and lists in the names of files."""
    bare = value.strip()
    return _parsed(value, where) if bare in ("", "null", "~") or _QUOTED.fullmatch(bare) else bare


def shortened(text: str, characters: int = 80) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _build(kind: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise RecipeError(f"{where or 'the recipe'} is {shortened(repr(tree))}; expected a section with keys")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    values = {}
    for key, value in tree.items():
        if key not in names:
            inside = [f"{name}.{key}" for name, inner in hints.items() if str(key) in _keys(inner)]
            near = [_path(where, name) for name in difflib.get_close_matches(str(key), names, n=1)]
            meant = " or ".join(map(repr, inside or near))
            hint = f"did you mean {meant}?" if meant else f"known: {', '.join(names)}"
            raise RecipeError(f"unknown key {shortened(_path(where, key))!r}; {hint}")
        values[key] = _value(hints[key], value, _path(where, key))
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(
            f"the recipe does not say {_path(where, missing[0])!r}; add it, or pass {_path(where, missing[0])}=…"
        )
    return kind(**values)


def _keys(section: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(section)] if dataclasses.is_dataclass(section) else []


def _path(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list) or len(value) != len(arguments):
            raise RecipeError(f"{where} is {shortened(repr(value))}; expected {len(arguments)} numbers in brackets")
        return tuple(_value(a, v, where) for a, v in zip(arguments, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise RecipeError(f"{where} is {shortened(repr(value))}; expected a section with keys")
        return {str(k): _value(arguments[1], v, _path(where, k)) for k, v in value.items()}
    if hint is Any:
        return _plain(value, where)
    if isinstance(value, str):
        _plain(value, where)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where} is {shortened(repr(value))}; expected {hint.__name__}")
    return value


def _plain(value: Any, where: str) -> Any:
    """The value, if JSON can say it: it is written into the model's folder."""
    if isinstance(value, dict):
        return {str(key): _plain(inner, _path(where, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, where) for inner in value]
    if isinstance(value, str) and ("\0" in value or (not value.isprintable() and _surrogates(value))):
        raise RecipeError(f"{where} has a character that no file can hold: NUL, or half of a pair of surrogates")
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where} is {value}; expected a finite number")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise RecipeError(f"{where} is {shortened(repr(value))}, a {type(value).__name__}; put text in quotes")


def _surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
