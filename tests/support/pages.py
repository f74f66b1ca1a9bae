"""The code in the pages for people: fenced blocks, the commands in indented blocks and in running text."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import ROOT

# The log and the change log tell of their day; a card of a ticket is made from a template and has its own tests.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/*.md",
        "docs/decisions/*.md",
        "benchmarks/README.md",
        "results/README.md",
    )
    for path in ROOT.glob(pattern)
    if path.name != "log.md"
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_INDENTED = re.compile(r"^    ((?:python|make|ray|\(umask|sbatch) (?:.*\\\n)*.*)$", re.M)
_INLINE = re.compile(r"`((?:python -m|make) [^`]+)`")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. number: its place among those of the page, from 1."""

    page: str
    number: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """For a test's name and for tracebacks."""
        return f"{self.page}:{self.number}"


def text_of(page: str) -> str:
    return Path(ROOT, page).read_text()


def blocks(page: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page, of these languages (none: all)."""
    found = [
        Block(page=page, number=number, language=match[1], text=match[2])
        for number, match in enumerate(_FENCE.finditer(text_of(page)), 1)
    ]
    return [block for block in found if not languages or block.language in languages]


def commands(page: str) -> list[str]:
    """The command lines of a page's indented and bash blocks, continued lines joined, without comments."""
    text = text_of(page)
    shell = [line for block in blocks(page, "bash") for line in block.text.splitlines() if not line.startswith(" ")]
    indented = [match[1] for match in _INDENTED.finditer(_FENCE.sub("", text))]
    return [_plain(line) for line in (*indented, *(line for line in shell if line.startswith("python ")))]


def mentions(page: str) -> list[str]:
    """The command lines in running text and tables."""
    return [_plain(match[1]) for match in _INLINE.finditer(_FENCE.sub("", text_of(page)))]


def _plain(line: str) -> str:
    return re.sub(r"\s+#.*|(?<!\S)> \S+$|( &)?$", "", line.replace("\\\n", " ")).strip()


def variants(line: str) -> list[list[str]]:
    """The words of a line as one would type it: options in brackets given, `...` left out, each alternative once."""
    line = line.replace("...", "")
    line = re.sub(r"\[\s*\]|\\(?=\|)", "", line)
    while line != (line := re.sub(r"\[([^\[\]]*)\]", r"\1", line)):
        pass
    line = re.sub(r"\{([\w,]+)\}", lambda match: match[1].replace(",", "|"), line)
    words = shlex.split(line)
    choices = [word.split("|") if re.fullmatch(r"[\w-]+(\|[\w-]+)+", word) else [word] for word in words]
    return [list(choice) for choice in itertools.product(*choices)]
