"""Types of fields that several optimizers have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

__all__ = ["Betas", "Share"]

Share = Annotated[float, Field(ge=0, lt=1)]
"""What is kept of a running mean at each step."""
Betas = tuple[Share, Share]
"""Those of the first and of the second moment."""
