"""A run: what it is made of (`recipe.py`), how that is put together (`assemble.py`), and going on with it."""
