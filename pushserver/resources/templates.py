"""Templates of the user: Jinja2 with autoescape, and with bounds on what one rendering does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from traceback import extract_tb
from types import CodeType, MappingProxyType
from typing import Any

from jinja2 import (
    BaseLoader,
    BytecodeCache,
    ChoiceLoader,
    FileSystemLoader,
    PrefixLoader,
    StrictUndefined,
    TemplateNotFound,
    TemplateSyntaxError,
    nodes,
)
from jinja2.bccache import Bucket
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from pushserver.resources.template_sizes import OF_FILTERS, OF_METHODS, Size, of_conversions

MAX_TURNS = 20_000
"""The turns of all loops of one rendering, with its calls of macros, blocks and other templates.

10,000 turns that each write a line take 20 ms.
"""

MAX_OUTPUT = 1_048_576
"""The characters of one rendering."""

MAX_SECONDS = 0.5
"""The time after which no other turn begins: each may search a long list."""

MAX_NUMBER_BITS = 4_096
"""The size of a product or a power."""


PREFIX = "pushserver"
"""The folder in the names of the server's own templates."""

OWN_NAMES = ("channel.html", "channels.html", "error.html", "login.html", "page.html")
"""The server's own templates."""

LINES_AROUND = 3
MOST_COLUMNS = 200
"""The lines before and after that of an error, and their characters."""


class TooMuch(Exception):
    """A rendering exceeds one of the bounds."""


class Missing(StrictUndefined):
    """A name or field that does not exist: false in a condition, and an error in any other place.

    Data has optional fields, and a wrong name must not become an empty page.
    """

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]
        return False


class Templates:
    """The templates in a folder; each is read once.

    `behind`: the folder of those that it does not have, which are `pushserver/NAME` too.
    `globals_`: names that all templates know. `fresh`: read a file that has changed anew.
    `monotonic`: the steady clock; the default stands still, so that no rendering takes too long.
    """

    def __init__(
        self,
        folder: str,
        behind: str = "",
        globals_: Mapping[str, Any] = MappingProxyType({}),
        fresh: bool = False,
        monotonic: Callable[[], float] = float,
    ):
        self.folder = folder
        self._folders = tuple(filter(None, (folder, behind)))
        loader: BaseLoader = FileSystemLoader(self._folders)
        if behind:
            own = PrefixLoader({PREFIX: FileSystemLoader(behind)})
            loader = ChoiceLoader([own, loader])
        self._environment = _Environment(loader, fresh, monotonic)
        self._environment.globals.update(globals_)

    def check(self, name: str) -> None:
        """Raise the error of a template that is missing or invalid."""
        self._environment.get_template(name)

    def problems(self, names: Iterable[str]) -> Iterator[str]:
        """The errors of those of these templates that are missing or invalid, a line for each."""
        for name in names:
            try:
                self.check(name)
            except Exception as error:
                yield f"template = {name!r}: {self.describe(name, error)}"

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """Render a template; raises TooMuch, and any other exception."""
        return self._environment.run(name, values)

    def describe(self, name: str, error: BaseException) -> str:
        """One line about the error of a template, with its place there."""
        if isinstance(error, TemplateNotFound):
            return f"there is no {error.name!r:.200} in {self.folder}"
        if isinstance(error, TemplateSyntaxError):
            return f"{error.name or name}, line {error.lineno}: {error.message}"
        place = self._place(error)
        where = f"{self._name(place[0])}, line {place[1]}" if place else name
        kind = "" if isinstance(error, TooMuch) else f"{type(error).__name__}: "
        return f"{where}: {kind}{error}"

    def explain(self, name: str, error: BaseException) -> str:
        """The error of a template with the lines around its place."""
        text, place = self.describe(name, error), self._place(error)
        if place is None:
            return text
        try:
            lines = Path(place[0]).read_text("utf-8", "replace").splitlines()
        except OSError:
            return text
        first = max(0, place[1] - 1 - LINES_AROUND)
        shown = [
            f"{'>' if number == place[1] else ' '} {number:4} | {line[:MOST_COLUMNS]}"
            for number, line in enumerate(lines[first : place[1] + LINES_AROUND], first + 1)
        ]
        return "\n".join((text, "", *shown))

    def _place(self, error: BaseException) -> tuple[str, int] | None:
        """The file and the line of an error, if they are known."""
        if isinstance(error, TemplateSyntaxError):
            return None if error.filename is None else (error.filename, error.lineno)
        # Jinja2 gives the frames of templates the names and lines of their files.
        places = [
            (frame.filename, frame.lineno or 1)
            for frame in extract_tb(error.__traceback__)
            if any(Path(frame.filename).is_relative_to(folder) for folder in self._folders)
        ]
        return places[-1] if places else None

    def _name(self, file: str) -> str:
        folder = next(one for one in self._folders if Path(file).is_relative_to(one))
        return Path(file).relative_to(folder).as_posix()


class _Compiled(BytecodeCache):
    """The compiled templates of the process, by their files.

    Without it the first readers after a reload would wait for compilations of 40 ms each.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, CodeType | None]] = {}

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        # Not by name: an include of `data.name` could ask for one file by any number of names.
        return filename or name

    def load_bytecode(self, bucket: Bucket) -> None:
        checksum, code = self._kept.get(bucket.key, ("", None))
        if checksum == bucket.checksum:
            bucket.code = code

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._kept[bucket.key] = bucket.checksum, bucket.code


_COMPILED = _Compiled()


class _Environment(ImmutableSandboxedEnvironment):
    """Counts the turns of loops, by statements that it adds to each template."""

    intercepted_binops = frozenset({"%", "*", "**", "+"})

    concat = staticmethod(lambda parts: _joined(parts))

    def __init__(self, loader: BaseLoader, fresh: bool, monotonic: Callable[[], float]):
        super().__init__(
            loader=loader,
            autoescape=True,
            undefined=Missing,
            auto_reload=fresh,
            bytecode_cache=_COMPILED,
        )
        self._left = 0
        self._monotonic = monotonic
        self._until = 0.0
        self.globals["range"] = _range
        del self.globals["lipsum"]
        for name, size in OF_FILTERS.items():
            self.filters[name] = _bounded(self.filters[name], size)

    @property
    def turn(self) -> None:
        """Count a turn: a property, since an attribute is what a template reads fastest."""
        self._left -= 1
        if self._left < 0:
            raise TooMuch(f"more than {MAX_TURNS} turns of loops and calls of macros")
        if self._monotonic() > self._until:
            raise TooMuch(f"more than {MAX_SECONDS} seconds")

    def run(self, name: str, values: Mapping[str, Any]) -> str:
        template = self.get_template(name)
        self._left = MAX_TURNS
        self._until = self._monotonic() + MAX_SECONDS
        parts, size = [], 0
        for part in template.generate(values):
            size += len(part)
            if size > MAX_OUTPUT:
                raise TooMuch(f"more than {MAX_OUTPUT} characters")
            parts.append(part)
        return "".join(parts)

    def _generate(
        self,
        source: nodes.Template,
        name: str | None,
        filename: str | None,
        defer_init: bool = False,
    ) -> str:
        for parent in source.find_all(nodes.Extends):
            if isinstance(parent.template, nodes.Const) and parent.template.value == name:
                problem = "it extends itself"
                if name in OWN_NAMES:
                    problem += f"; the server's own is {PREFIX}/{name}"
                raise TemplateSyntaxError(problem, parent.lineno, name, filename)
        kinds = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)
        bodies: list[Any] = [source, *source.find_all(kinds)]
        for node in bodies:
            turn = nodes.EnvironmentAttribute("turn", lineno=node.lineno)
            node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        source = _Concatenations().visit(source)
        source.set_environment(self)
        return super()._generate(source, name, filename, defer_init)

    def getattr(self, obj: Any, attribute: str) -> Any:
        # `data.items` and `data.count` are fields of data that has them, not methods.
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # `format` is a function around the method.
        method = getattr(__obj, "__wrapped__", __obj)
        text, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(text, str) and name in OF_METHODS:
            args = tuple(list(one) if isinstance(one, Iterator) else one for one in args)
            _check(OF_METHODS[name], text, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            if isinstance(left, str):
                _check(of_conversions, left, *(right if isinstance(right, tuple) else (right,)))
        elif operator == "+":
            if isinstance(left, str | list | tuple):
                _check(_lengths, left, right)
        else:
            _check_product(operator, left, right)
        return super().call_binop(context, operator, left, right)


def _check_product(operator: str, left: Any, right: Any) -> None:
    """Check a product or a power."""
    if isinstance(left, int) and isinstance(right, int):
        factor = right if operator == "**" else 1
        bits = left.bit_length() * abs(factor)
        if operator == "*":
            bits += right.bit_length()
        if bits > MAX_NUMBER_BITS:
            raise TooMuch(f"a number of more than {MAX_NUMBER_BITS} bits")
    for one, count in ((left, right), (right, left)):
        repeats = isinstance(one, str | list | tuple) and isinstance(count, int)
        if repeats and len(one) * count > MAX_OUTPUT:
            raise TooMuch(f"a text or list repeated to more than {MAX_OUTPUT} items")


def _range(*bounds: int) -> range:
    turns = range(*bounds)
    if len(turns) > MAX_TURNS:
        raise TooMuch(f"a range of more than {MAX_TURNS} numbers")
    return turns


class _Concatenations(NodeTransformer):
    """Makes `a ~ b` a call of the filter `join`, which has a bound."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        items = nodes.List([self.visit(one) for one in node.nodes], lineno=node.lineno)
        return nodes.Filter(items, "join", [], [], None, None, lineno=node.lineno)


def _bounded(call: Callable[..., Any], size: Size) -> Callable[..., Any]:
    """This filter, with a bound on what it makes."""
    # Jinja gives such a filter its own context as the first argument.
    first = 1 if hasattr(call, "jinja_pass_arg") else 0

    @wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        value = args[first]
        if isinstance(value, Iterator):
            args = (*args[:first], list(value), *args[first + 1 :])
        _check(size, *args[first:], **kwargs)
        return call(*args, **kwargs)

    return checked


def _check(size: Size, *args: Any, **kwargs: Any) -> None:
    try:
        made = size(*args, **kwargs)
    except (TypeError, ValueError):
        # The call has the better message.
        return
    if made > MAX_OUTPUT:
        raise TooMuch(f"a text or list of more than {MAX_OUTPUT} items")


def _lengths(left: Any, right: Any) -> int:
    return len(left) + len(right)


def _joined(parts: Iterable[str]) -> str:
    """What a block or a macro has written, as one text."""
    parts = list(parts)
    if sum(map(len, parts)) > MAX_OUTPUT:
        raise TooMuch(f"more than {MAX_OUTPUT} characters")
    return "".join(parts)
