"""The fragments of publications: made once each, by a template or a function."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Publication
from pushserver.diagnosis.facts import TemplateFailure
from pushserver.protocols.fragments import (
    ACTIONS,
    MODES,
    datastar_fragments,
    html_fragments,
    turbo_fragments,
)
from pushserver.protocols.representations import Representation
from pushserver.resources.fragment_functions import (
    FragmentFunction,
    FunctionsOfChannels,
    PublicationView,
)
from pushserver.resources.template_failures import MAX_ERROR, TemplateFailures
from pushserver.resources.templates import Templates
from pushserver.sources.engine.record import describe
from pushserver.usercode.share import TOO_MUCH, Share
from pushserver.usercode.tracebacks import own_part

MAX_BYTES = 8_388_608
"""The fragments that are kept: other readers get the same bytes in another form."""

ENTRY_BYTES = 512
"""The memory of a fragment besides its text, roughly."""

FRAGMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "html": ("", ("",)),
    "htmx": ("", ("",)),
    "turbo": ("action", ACTIONS),
    "datastar": ("mode", MODES),
}
"""The values of `as=` for fragments: another parameter of the query, and its values.

The first is the default. Each value has a format of its own, so they must be few.
"""

NO_FUNCTIONS = FunctionsOfChannels()

Key = tuple[str, str, int]


class Fragments:
    """Makes the fragments of publications, by the `template` of their channels.

    A channel without one may have a function in `functions`. `options` returns those of a channel,
    `clock` Unix seconds, `monotonic` is the steady clock. `counts`: see `TemplateFailures`. A
    failure is logged once a minute for each of them, and concerns nobody but the readers of its
    channels.
    """

    _log = Logger()

    def __init__(
        self,
        options: Callable[[str], ChannelOptions],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        functions: FunctionsOfChannels = NO_FUNCTIONS,
        counts: Counter[str] | None = None,
    ):
        self._functions = functions
        self._options = options
        self._monotonic = monotonic
        self._templates: Templates | None = None
        self._made: OrderedDict[Key, bytes | None] = OrderedDict()
        self._bytes = 0
        self._failures = TemplateFailures(clock, monotonic, counts)
        self._shares: dict[str, Share] = {}
        html = html_fragments(self.make)
        self._representations = {("html", ""): html, ("htmx", ""): html}
        for action in ACTIONS:
            self._representations["turbo", action] = turbo_fragments(self.make, action)
        for mode in MODES:
            self._representations["datastar", mode] = datastar_fragments(self.make, mode)

    def use(self, folder: str, names: Iterable[str]) -> None:
        """Use the templates in this folder from now on, as they are now; "" for none.

        Logs the errors of those with these names. No step may fail.
        """
        self._templates = Templates(folder, monotonic=self._monotonic) if folder else None
        self._made.clear()
        self._bytes = 0
        self._failures.clear()
        self._shares.clear()
        for name in names:
            try:
                self._check(name)
            except Exception as error:
                self._template_failed(name, "", error)

    def has(self, channel: str) -> bool:
        """Whether the publications of this channel have fragments."""
        return bool(self._options(channel).template or self._functions.get(channel))

    def representation(self, name: str, value: str) -> Representation | None:
        """The representation for this value of `as=` and of its parameter."""
        return self._representations.get((name, value))

    def failures(
        self, channel: str, others: Iterable[TemplateFailure] = ()
    ) -> list[TemplateFailure]:
        """The last failure of the template or function of this channel, if it has failed.

        `others`: failures in other processes.
        """
        name, function = self._options(channel).template, self._functions.get(channel)
        name = name or (function.name if function else "")
        own = self._failures.of(name)
        found = [each for each in others if each.name == name] + ([own] if own else [])
        return [max(found, key=lambda failure: failure.time)] if found else []

    @property
    def all_failures(self) -> list[TemplateFailure]:
        """The last failures of all templates and functions here."""
        return self._failures.last

    def make(self, row: Publication) -> bytes | None:
        """The fragment of a publication, in UTF-8; None if there is an error."""
        key = row.channel, row.epoch, row.seq
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        template = self._options(row.channel).template
        function = None if template else self._functions.get(row.channel)
        name = template if function is None else function.name
        if not name:
            # A reload has removed the template of a stream that is still open.
            return b""
        share, started = self._shares.setdefault(name, Share()), self._monotonic()
        if share.is_used_up(started):
            # Not kept: a later reader may get it.
            self._too_slow(name, row.channel)
            return None
        made = (
            self._by_template(name, row) if function is None else self._by_function(function, row)
        )
        share.add(self._monotonic() - started)
        self._made[key] = made
        self._bytes += _size(made)
        while self._bytes > MAX_BYTES and len(self._made) > 1:
            self._bytes -= _size(self._made.popitem(last=False)[1])
        return made

    def _by_template(self, name: str, row: Publication) -> bytes | None:
        try:
            view = PublicationView.of(row)
            values = {"publication": view, "data": view.data, "channel": view.channel}
            return self._check(name).render(name, values).strip().encode()
        except Exception as error:
            self._template_failed(name, row.channel, error)
            return None

    def _by_function(self, function: FragmentFunction, row: Publication) -> bytes | None:
        try:
            return function(PublicationView.of(row)).strip().encode()
        except Exception as error:
            more = self._note(function.name, row.channel, describe(error))
            if more is not None:
                self._log.failure(
                    "the fragment function {name} failed for {channel}{more}",
                    own_part(Failure(error)),
                    name=function.name,
                    channel=row.channel,
                    more=more,
                    event_name="fragment_failed",
                )
            return None

    def _check(self, name: str) -> Templates:
        if self._templates is None:
            raise LookupError("there is no folder of templates (server.templates)")
        self._templates.check(name)
        return self._templates

    def _template_failed(self, name: str, channel: str, error: Exception) -> None:
        folder = self._templates
        text = str(error) if folder is None else folder.describe(name, error)
        text = " ".join(text.split())[:MAX_ERROR].encode("utf-8", "replace").decode()
        more = self._note(name, channel, text)
        if more is not None:
            self._log.error(
                "the template {name} failed{where}: {problem}{more}",
                name=name,
                where=f" for {channel}" if channel else "",
                problem=text,
                more=more,
                event_name="template_failed",
            )

    def _too_slow(self, name: str, channel: str) -> None:
        problem = f"{TOO_MUCH}, and is not called for all"
        more = self._note(name, channel, problem)
        if more is not None:
            self._log.error(
                "{name}, which makes the fragments of {channel}, {problem}{more}",
                name=name,
                channel=channel,
                problem=problem,
                more=more,
                event_name="fragment_slow",
            )

    def _note(self, name: str, channel: str, error: str) -> str | None:
        if channel:
            self._failures.count(name)
        return self._failures.note(name, channel, error)


def _size(made: bytes | None) -> int:
    return ENTRY_BYTES + len(made or b"")
