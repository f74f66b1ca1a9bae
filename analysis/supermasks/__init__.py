"""Untrained networks under masks that were found by training them."""
