"""Where a recipe comes from, so that a later process can make it again and name what has changed."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lehr.base.errors import LehrError, RecipeFileError, SettingError
from lehr.base.settings import PRIVATE, Settings, describe_callable, override
from lehr.base.tables import did_you_mean
from lehr.run.recipe import Recipe

__all__ = ["Origin", "fingerprint", "from_function", "load", "source_hashes"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A function that returns a recipe: in a file, in an importable module, or nowhere that can be found again."""

    kind: str
    """"file", "module" or "session"."""
    place: str = ""
    """The file's path, or the module's name."""
    function: str = ""
    overrides: tuple[str, ...] = field(default=())

    def text(self) -> str:
        """Return it as the command line writes it."""
        return f"{self.place}:{self.function}" if self.kind != "session" else "an interactive session"


def load(text: str, overrides: Sequence[str] = ()) -> tuple[Recipe, Origin]:
    """Return the recipe of ``file.py``, ``file.py:function`` or ``package.module:function``, with overrides."""
    place, _, function = text.rpartition(":") if ":" in text else (text, "", "")
    function = function or "recipe"
    if place.endswith(".py"):
        path = Path(place).resolve()
        origin = Origin(kind="file", place=str(path), function=function, overrides=tuple(overrides))
        made = _called(_function(_import_file(path), function, place), path)
    else:
        origin = Origin(kind="module", place=place, function=function, overrides=tuple(overrides))
        made = _called(_function(importlib.import_module(place), function, place), None)
    return override(made, overrides), origin


def from_function(make: Callable[[], Recipe], overrides: Sequence[str] = ()) -> tuple[Recipe, Origin]:
    """Return the recipe that ``make`` returns, and where ``make`` can be found again."""
    made, given = override(_called(make, None), overrides), tuple(overrides)
    file = inspect.getsourcefile(make) if inspect.isfunction(make) else None
    name = getattr(make, "__qualname__", "")
    if "<" in name or "." in name or file is None or not Path(file).is_file():
        return made, Origin(kind="session", overrides=given)
    module = make.__module__
    if module == "__main__" or _importable(module) is None:
        return made, Origin(kind="file", place=str(Path(file).resolve()), function=name, overrides=given)
    return made, Origin(kind="module", place=module, function=name, overrides=given)


def _importable(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise SettingError(
            f"the recipe file {path} does not exist; put it back if it was moved, or give FILE.py, FILE.py:FUNCTION "
            "or a built-in name"
        )
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # worker processes and dataclasses look the module up by name
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as for a script: it may import its neighbours, now or later
    try:
        spec.loader.exec_module(module)
    except LehrError:
        raise
    except (Exception, SystemExit) as error:
        raise RecipeFileError(f"the recipe file {path} raised {type(error).__name__}: {error}") from error
    return module


def _module_name(path: Path) -> str:
    """Return the file's own name, by which worker processes can import it too, unless something else is called so."""
    loaded = sys.modules.get(path.stem)
    spec = None if loaded else _importable(path.stem)
    file = loaded.__dict__.get("__file__") if loaded else spec.origin if spec else str(path)
    return path.stem if file == str(path) and path.stem.isidentifier() else f"{PRIVATE}{path.stem}"


def _function(module: Any, name: str, place: str) -> Callable[[], Any]:
    found = getattr(module, name, None)
    if not callable(found):
        known = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise SettingError(
            f"{place} has no function {name!r}{did_you_mean(name, known)}; its functions: {', '.join(known) or 'none'}"
        )
    make: Callable[[], Any] = found
    return make


def _called(make: Callable[[], Any], path: Path | None) -> Recipe:
    try:
        made = make()
    except LehrError:
        raise
    except (Exception, SystemExit) as error:
        raise RecipeFileError(f"the recipe {path or make.__module__} raised {type(error).__name__}: {error}") from error
    if not isinstance(made, Recipe):
        raise SettingError(
            f"{path or make.__module__}:{getattr(make, '__name__', describe_callable(make))} returned "
            f"{type(made).__name__}; it must return a lehr.Recipe"
        )
    return made


def source_hashes(recipe: Recipe, origin: Origin) -> dict[str, str]:
    """Return {file: SHA-256} of the recipe's file and of the modules its callables and classes come from.

    Installed packages are left out: they have versions, which are recorded elsewhere.
    """
    files = {Path(origin.place)} if origin.kind == "file" else set()
    for value in _callables(recipe):
        code = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
        try:
            file = inspect.getsourcefile(code)
        except (TypeError, OSError):  # built in, or of a session without a file
            continue
        if file is not None and Path(file).is_file() and not _installed(Path(file)):
            files.add(Path(file).resolve())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


def fingerprint(recipe: Recipe) -> str | None:
    """Return a digest of what the objective brings beside its settings, such as a teacher's weights."""
    digest = getattr(recipe.objective, "fingerprint", None)
    return str(digest()) if callable(digest) else None


def _callables(value: Any) -> Iterator[Any]:
    if isinstance(value, Settings):
        yield value
        for name in type(value).model_fields:
            yield from _callables(getattr(value, name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _callables(item)
    elif hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
        yield value.func
    elif callable(value) or type(value).__module__ not in {"builtins", "torch"}:
        yield value


def _installed(file: Path) -> bool:
    paths = sysconfig.get_paths()
    here = Path(__file__).resolve().parents[1]
    roots = [Path(paths[key]).resolve() for key in ("stdlib", "purelib", "platlib")] + [here]
    return any(file.resolve().is_relative_to(root) for root in roots)
