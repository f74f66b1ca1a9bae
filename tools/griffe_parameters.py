"""Docstrings of this project say `name: what it is. other: what that is.` in one paragraph; the site shows a list.

An extension of griffe, which reads the sources for the reference pages. Named in mkdocs.yml.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Class, Extension, Function, Object


class ParameterLists(Extension):
    """Turn the paragraph about parameters into a list, for each function and class that is read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe once for each object, when its members are known."""
        if obj.docstring and isinstance(obj, (Function, Class)):
            obj.docstring.value = with_list(obj.docstring.value, names_of(obj))


def names_of(obj: Function | Class) -> set[str]:
    """The parameters of a function; of a class, those of its construction and its attributes."""
    if isinstance(obj, Function):
        return {parameter.name.lstrip("*") for parameter in obj.parameters}
    made = obj.members.get("__init__")
    names = {name for name, member in obj.members.items() if member.is_attribute}
    return names | (names_of(made) if isinstance(made, Function) else set())


def with_list(text: str, names: set[str]) -> str:
    """The docstring, with an item for each `name:` or `name, name:` that begins a sentence and names a parameter."""
    if not names:
        return text
    name = rf"(?:{'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})"
    start = re.compile(rf"(?:(?<=\n\n)|(?<=[.;)]\s)|(?<=\n))({name}(?:, {name})*):\s")
    paragraphs = text.split("\n\n")
    return "\n\n".join([paragraphs[0], *(_items(paragraph, start) for paragraph in paragraphs[1:])])


def _items(paragraph: str, start: re.Pattern[str]) -> str:
    first, *rest = start.split("\n" + paragraph)
    lines = [f"* `{names}`: {' '.join(what.split())}" for names, what in zip(rest[::2], rest[1::2], strict=True)]
    return "\n\n".join(part for part in (first.strip(), "\n".join(lines)) if part)
