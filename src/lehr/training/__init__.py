"""Training: read `loop.py` first, then `steps/eager.py`."""
