"""How one update is made: `eager.py` is the reference."""
