"""Which code a plug-in is made of: its module and the user's own modules that it imports, at any depth.

Found in the source, without running it. What cannot be followed (a name computed when the code runs, compiled modules,
files that are read) is listed in words.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType

from lth_trainable.own_code.places import Place, Places, is_own
from lth_trainable.own_code.source import MODULE, Source, read_source


@dataclass(frozen=True, kw_only=True)
class Code:
    """The code of a plug-in. digest: SHA-256 (hex) of its modules; None if its own has no Python source.

    modules: the names of all. not_followed: code that the digest does not cover, because it is not found by a name in
    the source, in words.
    """

    digest: str | None
    modules: tuple[str, ...]
    not_followed: tuple[str, ...]
    own: Source
    others: tuple[Source, ...]

    def reads_of(self, function: str) -> list[str]:
        """Where this function of the plug-in's module may read files and environment variables, in words."""
        reached, waiting = {MODULE}, [function]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += self.own.names.get(name, ())
        own = [where for place in self.own.reads if place in reached for where in self.own.reads[place]]
        return own + [where for source in self.others for place in source.reads.values() for where in place]


_sources: dict[str, Source] = {}
_codes: dict[str, tuple[tuple[tuple[str, ModuleSpec | None], ...], Code]] = {}


def code_of(module: ModuleType) -> Code:
    """The code of an imported module, as it was when it was imported: later edits of the files do not count."""
    known = _codes.get(module.__name__)
    if known is not None and all(_spec_of(name) is spec for name, spec in known[0]):  # a reload makes a new __spec__
        return known[1]
    places = Places()
    found = dict(sorted(_reached(module.__name__, places).items()))
    root = found[module.__name__]
    others = {name: source for name, source in found.items() if name != module.__name__ and not source.is_empty}
    digest = root.sha
    if others and root.sha is not None:
        text = "\n".join(f"{name} {source.sha}" for name, source in {module.__name__: root, **others}.items())
        digest = hashlib.sha256(text.encode()).hexdigest()
    code = Code(
        digest=digest, modules=(module.__name__, *others),
        not_followed=(*(gap for source in found.values() for gap in source.not_followed), *places.not_followed),
        own=root, others=tuple(source for source in found.values() if source is not root),
    )  # fmt: skip
    _codes[module.__name__] = tuple((name, source.spec) for name, source in found.items()), code
    return code


def _spec_of(name: str) -> ModuleSpec | None:
    try:
        return getattr(sys.modules.get(name), "__spec__", None)
    except Exception:  # a lazy module runs code of its own here
        return None


def _reached(root: str, places: Places) -> dict[str, Source]:
    """The sources of a module and of all own modules that it imports."""
    found: dict[str, Source] = {}
    waiting = [root, *_parents(root)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        place = places.place_of(name)
        if place is None and name == root:  # it is imported, but does not say from where
            place = Place(file=None, folders=None, loader=None)
        if place is None or (name != root and not is_own(place)):
            continue
        found[name] = _source_of(name, place, follow=is_own(place))
        for imported in found[name].imports:
            waiting += [imported, *_parents(imported)]
    return found


def _parents(name: str) -> list[str]:
    """The packages that are imported with a module: "a.b" and "a" for "a.b.c"."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _source_of(name: str, place: Place, follow: bool) -> Source:
    """The source of a module as it was when it was first read, or read again after a reload. follow: its imports."""
    spec = _spec_of(name)
    known = _sources.get(name)
    if known is None or known.spec is not spec:
        _sources[name] = known = read_source(name, place, spec, follow)
    return known
