"""Docstrings of this project say `name: what it is. other: what that is.` in one paragraph; the site shows a list.

An extension of griffe, which reads the sources for the reference pages. Named in mkdocs.yml.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from griffe import Class, Extension, Function, Object


class ParameterLists(Extension):
    """Turn the paragraph about parameters into a list, for each function and class that is read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe once for each object, when its members are known."""
        if obj.docstring and isinstance(obj, (Function, Class)):
            obj.docstring.value = with_list(obj.docstring.value, names_of(obj)) + fields_of(obj)


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
    start = re.compile(rf"(?:(?<=[.;)]\s)|(?<=\n))({name}(?:,\s{name})*):\s")
    paragraphs = text.split("\n\n")
    return "\n\n".join([paragraphs[0], *(_items(paragraph, start) for paragraph in paragraphs[1:])])


def _items(paragraph: str, start: re.Pattern[str]) -> str:
    first, *rest = start.split("\n" + paragraph)
    if not rest:
        return paragraph
    *whats, last = (" ".join(what.split()) for what in rest[1::2])
    last, *after = re.split(r"(?<=\.) (?=Raises |Returns )", last, maxsplit=1)
    lines = [f"* `{' '.join(names.split())}`: {what}" for names, what in zip(rest[::2], (*whats, last), strict=True)]
    return "\n\n".join(part for part in (first.strip(), "\n".join(lines), *after) if part)


def fields_of(obj: Function | Class) -> str:
    """A table of the fields of `TrialSpec`, each written with default and meaning: `_help(20, "epochs per level")`."""
    rows = []
    for name, member in obj.members.items() if isinstance(obj, Class) else ():
        call = ast.parse(str(member.value), mode="eval").body if member.is_attribute and member.value else None
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("_help", "_choice"):
            rows.append(f"| `{name}` | `{ast.unparse(call.args[0])}` | {words(call.args[-1])} |")
    return "\n\n" + "\n".join(["| field | default | is |", "|---|---|---|", *rows]) if rows else ""


def words(text: ast.expr) -> str:
    """A text as written; what an f-string would insert is known only when it runs, and shown as dots."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
