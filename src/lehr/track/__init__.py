"""Where records go: metrics.jsonl always, the terminal, TensorBoard."""

from lehr.track.guard import Guarded
from lehr.track.jsonl import JsonlTracker
from lehr.track.progress import Progress

__all__ = ["Guarded", "JsonlTracker", "Progress"]
