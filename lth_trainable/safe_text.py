"""Makes texts of others safe to show and to store: no terminal sequences, nothing hidden, no credentials.

Credentials do not belong in paths, URIs and command lines, since these are written into plans, reports and logs.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

HIDDEN = "***"
_NAMES = (
    r"[^=&?\s]*(?:access.?key|secret|token|password|passwd|credential|signature|api.?key|sas|account.?key)[^=&?\s]*"
)
_QUERY = re.compile(rf"(?P<before>[?&](?P<name>{_NAMES})=)(?P<secret>[^&\s\"']+)", re.IGNORECASE)
_USER = re.compile(r"(?P<before>\b(?!file:)[A-Za-z][A-Za-z0-9+.-]+:/{1,3})(?P<secret>[^\s/?#@]*(?::[^\s?#@]*)?)@")
_VALUE = re.compile(r"(?P<before>[?&][^=&\s]+=)(?P<secret>[^&\s/@]+:[^&\s@]+)@")
# there a name before @ is only a name
_NAMED = re.compile(
    r"(?:git|ssh|git\+ssh|hdfs|viewfs|abfss?|wasbs?|(?:postgresql|mysql|mariadb|mssql|oracle)(?:\+\w+)?)\b",
    re.IGNORECASE,
)
# the name of a bucket has no colon
_BUCKET = re.compile(r"(?P<before>(?:s3|gs|gcs)://)(?P<secret>[^\s/?#@]+:[^\s?#@]*)", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """The text with the credentials of each URI in it masked. An encoded text is masked from its first secret on."""
    if "://" not in text and ":/" not in text and "=" not in text and "%" not in text:
        return text
    masked = _QUERY.sub(rf"\g<before>{HIDDEN}", text)
    masked = _VALUE.sub(rf"\g<before>{HIDDEN}@", masked)
    masked = _USER.sub(_masked_user, masked)
    masked = _BUCKET.sub(rf"\g<before>{HIDDEN}", masked)
    if "%" in masked and masked == text and ("://" in text or ":/" in text):
        plain = unquote(text)
        hidden = without_secrets(plain) if plain != text else plain
        return hidden if hidden != plain else text
    return masked


def _masked_user(found: re.Match[str]) -> str:
    is_name = _NAMED.match(found["before"]) and ":" not in found["secret"]
    return found[0] if is_name or found["secret"] == HIDDEN else f"{found['before']}{HIDDEN}@"


_SEQUENCES = re.compile(  # what a terminal takes as a command: colours and cursor, then titles, links and the clipboard
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)"
)
_KEPT = "\n\t"


def printable(text: object) -> str:
    """The text without anything that acts on a terminal or hides in a page. Line breaks and tabs stay.

    Terminal sequences are removed. Other control characters, invisible characters, marks that change the direction of
    writing, and halves of surrogate pairs are written as escapes such as `\\x07` or `\\u202e`. Credentials in URIs are
    masked.
    """
    found = without_secrets(str(text))
    if found.isprintable():
        return found
    found = _SEQUENCES.sub("", found).replace("\r\n", "\n")
    return "".join(map(_visible, found))


def one_line(text: object) -> str:
    """The text as `printable` gives it, in one line: line breaks and tabs become spaces."""
    found = printable(text)
    return found if found.isprintable() else " ".join(found.split())


def _visible(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return character.encode("ascii", "backslashreplace").decode() if character > "\x7f" else f"\\x{ord(character):02x}"
