"""Checkpoints: folders of safetensors and JSON, written whole or not at all, with a manifest of hashes."""

from lehr.checkpoint.store import CheckpointStore, Found
from lehr.checkpoint.weights import load_weights

__all__ = ["CheckpointStore", "Found", "load_weights"]
