"""What torch keeps once for a whole process, as a recipe has it: threads, the kernel of attention, TF32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lehr.levers.attention import attention
from lehr.levers.tf32 import tf32
from lehr.levers.threads import threads
from lehr.run.recipe import Recipe

__all__ = ["backends"]


@contextlib.contextmanager
def backends(recipe: Recipe) -> Iterator[None]:
    """Let torch compute as the recipe says within the block, and put back what was set before."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(threads(recipe.threads))
        stack.enter_context(attention(recipe.attention))
        if recipe.precision == "tf32":
            stack.enter_context(tf32())
        yield
