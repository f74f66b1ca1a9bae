"""Figures that papers have published, and whether a run agrees with them."""
