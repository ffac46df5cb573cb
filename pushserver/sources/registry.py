"""Finds the types of sources, which are plug-ins, and makes the configured sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from twisted.logger import Logger
from twisted.plugin import IPlugin, getPlugins
from zope.interface import implementer

from pushserver.config.settings import Source
from pushserver.sources.engine.environment import Plan
from pushserver.sources.interface import ISource, ISourceType

_log = Logger()


@implementer(IPlugin, ISourceType)
class BuiltIn:
    """A type whose module is imported when it is first used.

    `path` is the dotted path of an object with `options` and `make`, as ISourceType has them;
    `extra` is the extra of pip that installs the libraries of the type.
    """

    def __init__(self, name: str, path: str, extra: str = ""):
        self.name = name
        self.extra = extra
        self._path = path

    @property
    def options(self) -> type:
        """The options of ISourceType; raises ValueError if a library is missing."""
        options: type = self._with(lambda kind: kind.options)
        return options

    def make(self, options: Any) -> Any:
        return self._with(lambda kind: kind.make(options))

    def _with(self, use: Callable[[Any], Any]) -> Any:
        module, _, attribute = self._path.rpartition(".")
        try:
            return use(getattr(import_module(module), attribute))
        except ModuleNotFoundError as error:
            if not self.extra or (error.name or "").partition(".")[0] == "pushserver":
                raise
            install = f"pip install 'pushserver[{self.extra}]'"
            raise ValueError(f"{self.name} needs the library {error.name}: {install}") from None


class SourceTypes(Mapping[str, Any]):
    """The installed types by name. The plug-ins are searched once, at the first use."""

    def __init__(self, plugins: Iterable[Any] | None = None):
        self._plugins = plugins
        self._by_name: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        return self._types()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._types()))

    def __len__(self) -> int:
        return len(self._types())

    def _types(self) -> dict[str, Any]:
        if self._by_name is None:
            self._by_name = {}
            for kind in getPlugins(ISourceType) if self._plugins is None else self._plugins:
                self._add(self._by_name, kind)
        return self._by_name

    @staticmethod
    def _add(types: dict[str, Any], kind: Any) -> None:
        name = getattr(kind, "name", None)
        if not isinstance(name, str) or not name:
            _log.error(
                "{kind!r} is a type of sources without a name; it is ignored",
                kind=kind,
                event_name="source_type_ignored",
            )
        elif name not in types:
            types[name] = kind
        elif isinstance(kind, BuiltIn) != isinstance(types[name], BuiltIn):
            if isinstance(kind, BuiltIn):
                kind, types[name] = types[name], kind
            _log.error(
                "{kind!r} is ignored: the type {name} is built in",
                name=name,
                kind=kind,
                event_name="source_type_ignored",
            )
        else:
            _log.error(
                "{kind!r} is a second type {name}; it is ignored",
                name=name,
                kind=kind,
                event_name="source_type_ignored",
            )


def make(name: str, source: Source, types: Mapping[str, Any]) -> tuple[Any, Plan]:
    """Return the source of a table of the configuration, and its plan.

    Raises ValueError with the reason.
    """
    kind = types.get(source.type)
    if kind is None:
        raise ValueError(
            f"{source.type} is not a type of sources, expected one of {', '.join(types)}"
        )
    instance = kind.make(kind.options(**source.options))
    if not ISource.providedBy(instance):
        made = type(instance).__name__
        raise ValueError(f"the type {source.type} made an object of {made}, expected an ISource")
    settings = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    return instance, Plan(**settings, name=name)
