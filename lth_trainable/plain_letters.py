"""What is printed where an encoding lacks a letter: the nearest plain one, so that no command fails on a terminal.

A minus sign becomes a hyphen, for example. One letter stays one letter, so that columns line up.
"""

from __future__ import annotations

import codecs
import unicodedata

PLAIN_LETTERS = "plain_letters"  # the name of this way of handling letters that cannot be encoded
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("−–—‑─╶╴╌", "-"), **dict.fromkeys("·•●○◦■□▪◆", "*"), **dict.fromkeys("│┃╎┆┊", "|"),
        **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼┏┓┗┛", "+"), **dict.fromkeys("‘’‚", "'"), **dict.fromkeys("“”„", '"'),
        **dict.fromkeys("█▉▊▋▌▓▒░━", "#"), "…": ".", "×": "x", "→": ">", "←": "<", "≤": "<", "≥": ">", "≈": "~",
        "\N{NO-BREAK SPACE}": " ", "½": "h", "¼": "q", "¾": "t",
    }
)  # fmt: skip


def plain(text: str) -> str:
    """The text in ASCII, letter by letter; "?" for a letter that has nothing near."""
    return "".join(_nearest(letter) for letter in text)


def _nearest(letter: str) -> str:
    if letter.isascii():
        return letter
    found = letter.translate(_PLAIN)
    if not found.isascii():  # a letter with an accent, or of another width
        found = unicodedata.normalize("NFKD", letter)[0]
    return found if found.isascii() and found.isprintable() else "?"


def _handle(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end


codecs.register_error(PLAIN_LETTERS, _handle)
