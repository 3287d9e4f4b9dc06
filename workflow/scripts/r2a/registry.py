"""Finds the things with which a study can be extended: figures, kinds of perturbation, graders and so on.

Each is one decorated function or class at the top level of a module: any module of the package for its sort, or of a
package that declares an entry point of the group `r2a.plugins`. Its name is the function's, without the prefix of its
sort. The decorator's arguments are literals and are read from the source, so that the Snakefile knows all names, labels
and versions without importing torch, pandas or matplotlib. The module is imported when the function is used.
"""

import ast
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

PLUGINS = "r2a.plugins"


class RegistryError(ValueError):
    """A name is unknown, or a registration cannot be used; the message names it and the remedy."""


@dataclass(kw_only=True)
class Entry:
    """A registered thing. label: its name for readers. version: raised when its results change."""

    label: str
    version: int = 1
    name: str = field(default="", init=False)
    place: str = field(default="", init=False)  # module:function
    purpose: str = field(default="", init=False)  # the first line of its docstring

    @property
    def module(self) -> str:
        return self.place.split(":")[0]

    @property
    def function(self) -> Any:
        """The decorated function or class; this imports its module."""
        module, name = self.place.split(":")
        return getattr(import_module(module), name)


Fields = ParamSpec("Fields")
EntryType = TypeVar("EntryType", bound=Entry)
Decorated = TypeVar("Decorated")


class Registry(Mapping[str, EntryType], Generic[Fields, EntryType]):
    """The registered things of one sort by name, ordered by module and line; those of plugins come last."""

    def __init__(self, decorator: str, entry: Callable[Fields, EntryType], package: str, prefix: str = "") -> None:
        """decorator: its name, which is also the sort's. package: all of its modules are searched. prefix: of the
        functions' names.
        """
        self._decorator, self._entry, self._package, self._prefix = decorator, entry, package, prefix

    def register(self, *arguments: Fields.args, **named: Fields.kwargs) -> Callable[[Decorated], Decorated]:
        """The decorator. It returns the function unchanged; its arguments are read from the source."""
        self._entry(*arguments, **named)
        return lambda decorated: decorated

    @functools.cached_property
    def _entries(self) -> dict[str, EntryType]:
        found: dict[str, EntryType] = {}
        for module, path in [*_modules(self._package), *_plugin_modules()]:
            for entry in self._in_file(module, path):
                if entry.name in found:
                    places = f"{found[entry.name].place} and {entry.place}"
                    raise RegistryError(f"two {self._decorator}s are named {entry.name}: {places}; rename one")
                found[entry.name] = entry
        return found

    def _in_file(self, module: str, path: Path) -> Iterator[EntryType]:
        source = path.read_text()
        if f"@{self._decorator}(" not in source:
            return
        for node in ast.parse(source, str(path)).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for call in node.decorator_list:
                    if isinstance(call, ast.Call) and getattr(call.func, "id", "") == self._decorator:
                        entry = self._declared(call, path)
                        entry.name, entry.place = node.name.removeprefix(self._prefix), f"{module}:{node.name}"
                        entry.purpose = (ast.get_docstring(node) or "").split("\n")[0]
                        yield entry

    def _declared(self, call: ast.Call, path: Path) -> EntryType:
        arguments: tuple[Any, ...]
        named: dict[str, Any]
        try:
            arguments = tuple(ast.literal_eval(argument) for argument in call.args)
            named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            return self._entry(*arguments, **named)
        except (ValueError, TypeError) as error:
            takes = ", ".join(inspect.signature(self._entry).parameters)
            raise RegistryError(
                f"{path}:{call.lineno}: @{self._decorator} cannot be read ({error}); its arguments must be literals: "
                f"{takes}"
            ) from None

    def __getitem__(self, name: str) -> EntryType:
        if name not in self._entries:
            sort = self._decorator.replace("_", " ")
            raise RegistryError(f"{name!r} is not a known {sort}; known: {', '.join(self._entries)}")
        return self._entries[name]

    def __str__(self) -> str:
        return self._decorator

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # Mapping's own relies on KeyError

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def versions(self, names: Iterable[str]) -> dict[str, int]:
        """Versions of the things that a stage uses, for its params: it reruns when one of them changes."""
        return {name: self[name].version for name in names}


@functools.cache
def _modules(name: str) -> list[tuple[str, Path]]:
    """The module of a name, or every module of the package of that name, with its file; nothing is imported."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return []
    if spec.submodule_search_locations is None:
        return [(name, Path(spec.origin))]
    folder = Path(spec.origin).parent
    paths = sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix())
    return [(".".join([name, *_dotted(path.relative_to(folder))]), path) for path in paths]


def _dotted(path: Path) -> tuple[str, ...]:
    return path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts


@functools.cache
def _plugin_modules() -> list[tuple[str, Path]]:
    """The modules of other packages that declare an entry point of the group PLUGINS."""
    found: dict[str, Path] = {}
    for point in entry_points(group=PLUGINS):
        modules = _modules(point.value)
        if not modules:
            raise RegistryError(
                f"the entry point {point.name!r} of {PLUGINS} names {point.value!r}, which cannot be found; "
                "name a module or package, or uninstall the package that declares it"
            )
        found |= modules
    return list(found.items())
