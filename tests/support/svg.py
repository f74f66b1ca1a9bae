"""SVG files, read as XML."""

from __future__ import annotations

from xml.etree import ElementTree


def texts(svg: bytes) -> list[str]:
    """The texts of the drawing, in its order."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
