"""Fuzzing: any file of a storage is damaged in any way, then any command runs. See `campaign.py`."""
