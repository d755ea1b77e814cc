"""The name tables, by the word that `lehr list` takes."""

from __future__ import annotations

from lehr.base.tables import Table
from lehr.levers.table import LEVERS
from lehr.losses.table import LOSSES
from lehr.metrics.table import METRICS
from lehr.optim.table import OPTIMIZERS
from lehr.recipes.table import RECIPES
from lehr.schedules.table import SCHEDULES
from lehr.training.methods.table import METHODS

__all__ = ["tables"]


def tables() -> dict[str, Table]:
    """Return every name table."""
    return {
        "recipes": RECIPES,
        "optimizers": OPTIMIZERS,
        "schedules": SCHEDULES,
        "methods": METHODS,
        "metrics": METRICS,
        "losses": LOSSES,
        "levers": LEVERS,
    }
