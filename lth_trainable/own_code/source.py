"""What the source of a module says, without running it: what it imports, what cannot be followed, what it may read."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path

from lth_trainable.own_code.places import Place, source_file

MODULE = ""  # in place of a name: the code of a module outside its functions and classes
_BY_NAME = ("import_module", "__import__")  # functions that import the module that they are given
_COMPUTED = (  # functions that run code which is not imported by a name in the source
    "exec", "eval", "run_path", "run_module", "resolve_name", "exec_module", "load_module", "spec_from_file_location",
)  # fmt: skip
_READERS = (
    "open", "load", "full_load", "safe_load", "safe_open", "loadtxt", "loadmat", "genfromtxt", "fromfile", "memmap",
    "imread", "from_pretrained", "urlopen", "urlretrieve", "hf_hub_download", "getenv",
)  # fmt: skip
_READER_STARTS = ("read_", "load_")
_NO_READERS = ("load_state_dict",)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the source of one module says. spec: of the module when it was read; None if it was not imported yet.

    names: those that each function and class at its top uses. reads: where each may read files, in words.
    """

    spec: ModuleSpec | None
    sha: str | None
    is_empty: bool = False
    imports: tuple[str, ...] = ()
    not_followed: tuple[str, ...] = ()
    names: Mapping[str, set[str]] = field(default_factory=dict)
    reads: Mapping[str, list[str]] = field(default_factory=dict)


def read_source(name: str, place: Place, spec: ModuleSpec | None, follow: bool) -> Source:
    file = source_file(name, place)
    if place.file is None and place.folders is not None:  # a namespace package: a folder without code
        return Source(spec=spec, sha=None, is_empty=True)
    if file is None:
        what = f"the compiled module {name}" if place.file is not None else f"the module {name}, which has no file"
        return Source(spec=spec, sha=None, is_empty=True, not_followed=(what,))
    read = getattr(place.loader, "get_data", None)  # modules may be in an archive
    try:
        text: bytes = Path(file).read_bytes() if read is None else read(file)
    except Exception as error:  # of the disk, or of a loader that somebody has added: any kind
        what = f"the module {name}, which cannot be read ({type(error).__name__}: {error})"
        return Source(spec=spec, sha=None, is_empty=True, not_followed=(what,))
    sha = hashlib.sha256(text).hexdigest()
    if not follow:
        return Source(spec=spec, sha=sha)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # it is imported by a function that may never be called
        return Source(spec=spec, sha=sha, not_followed=(f"the imports of {name}, which has a syntax error",))
    seen = _Seen(name, Path(file).name, package=name if place.folders is not None else name.rpartition(".")[0])
    seen.visit(tree)
    return Source(
        spec=spec, sha=sha, is_empty=not text.strip(), imports=tuple(dict.fromkeys(seen.imports)),
        not_followed=tuple(dict.fromkeys(seen.not_followed)), names=seen.names, reads=seen.reads,
    )  # fmt: skip


class _Seen(ast.NodeVisitor):
    """Collects what the source of a module imports, at any place in it, and what cannot be followed."""

    def __init__(self, module: str, file: str, package: str) -> None:
        self.module, self.file, self.package = module, file, package
        self.renamed: dict[str, str] = {}
        self.imports: list[str] = []
        self.not_followed: list[str] = []
        self.place = MODULE
        self.names: dict[str, set[str]] = {}
        self.reads: dict[str, list[str]] = {}

    def visit_Module(self, node: ast.Module) -> None:
        for part in node.body:
            is_definition = isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            self.place = getattr(part, "name", MODULE) if is_definition else MODULE
            self.visit(part)

    def visit_Name(self, node: ast.Name) -> None:
        self.names.setdefault(self.place, set()).add(node.id)

    def _note_read(self, node: ast.expr) -> None:
        found, where = self.reads.setdefault(self.place, []), f"what {self.file}:{node.lineno} reads"
        if where not in found:
            found.append(where)

    def visit_Import(self, node: ast.Import) -> None:
        self.imports += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.renamed |= {alias.asname: alias.name for alias in node.names if alias.asname}
        base = _absolute("." * node.level + (node.module or ""), self.package)
        if base is None:
            return
        self.imports += [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")]

    def visit_If(self, node: ast.If) -> None:
        parts: Iterator[ast.AST] = ast.iter_child_nodes(node)
        if _last_name(node.test) == "TYPE_CHECKING":  # never imported when the code runs
            parts = iter(node.orelse)
        for part in parts:
            self.visit(part)

    def visit_Call(self, node: ast.Call) -> None:
        name = _last_name(node.func)
        name = self.renamed.get(name or "", name)
        where = f"{self.file}:{node.lineno}"
        if name in _BY_NAME:
            given = [a.value if isinstance(a, ast.Constant) else None for a in node.args[:2]]
            package = given[1] if len(given) > 1 and isinstance(given[1], str) else self.package
            asked = _absolute(given[0], package) if given and isinstance(given[0], str) else None
            if asked is None:
                self.not_followed.append(f"the module that {where} imports by a computed name")
            else:
                self.imports.append(asked)
        elif name in _COMPUTED and (isinstance(node.func, ast.Name) or name not in ("exec", "eval")):
            self.not_followed.append(f"the code that {where} runs by {name}")
        elif name in _READERS or ((name or "").startswith(_READER_STARTS) and name not in _NO_READERS):
            self._note_read(node)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in ("environ", "argv"):
            self._note_read(node)
        self.generic_visit(node)


def _last_name(node: ast.AST) -> str | None:
    """`f` of the expressions `f` and `a.b.f`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _absolute(name: str, package: str) -> str | None:
    """The full name of a module that is imported as `name` within a package; None if that leads out of it."""
    level = len(name) - len(name.lstrip("."))
    if level == 0:
        return name or None
    parts = package.split(".") if package else []
    if level > len(parts):
        return None
    base = parts[: len(parts) - level + 1]
    rest = name.lstrip(".")
    return ".".join([*base, rest] if rest else base)
