"""The live pages of channels, the page of their list, and `/`, which is one of these."""

from __future__ import annotations

from twisted.web.server import Request

from pushserver.resources.history import tell_cursor
from pushserver.resources.pages import Pages
from pushserver.resources.permissions import useful
from pushserver.sessions.node import Node
from pushserver.web.document import answer_page
from pushserver.web.gate import Gate
from pushserver.web.resource import Answer, LeafResource

MOST_ON_A_PAGE = 32
"""The most channels on one live page."""


class LivePages:
    """Answers with these pages, by what the sender of a request may do.

    `root` is the relative path to the server's root.
    """

    def __init__(self, node: Node, gate: Gate, pages: Pages):
        self._node = node
        self._gate = gate
        self._pages = pages

    def of_channels(self, request: Request, names: tuple[str, ...], root: str) -> Answer:
        """The live page of the channels."""
        node, gate = self._node, self._gate
        size = max(node.history.options(name).history_size for name in names)
        key = gate.caller(request)
        operator = key is not None and all(key.allows("publish", name) for name in names)
        login = any(useful(node, gate, name) for name in names)
        page = self._pages.channel(names, root, size, operator, login)
        # A page that the application would have to be asked about is the same for everybody.
        identity = gate.identity_at_once(request)
        if identity is not None and len(names) == 1:
            tell_cursor(request, node, gate, names[0], identity)
        return answer_page(request, page)

    def may_list(self, request: Request) -> bool:
        """Whether the sender may read the list of channels; see `channel_list`."""
        key = self._gate.caller(request)
        return key is not None and "read" in key.may

    def of_list(self, request: Request, root: str, permitted: bool) -> Answer:
        """The page of the list; `permitted`: whether the sender `may_list`."""
        page = self._pages.channels(root, "key" in self._gate.accepts, permitted)
        return answer_page(request, page)


class FrontResource(LeafResource):
    """`/`: the live page of the front channel.

    `lists`: it is the list of channels, for those who may see that.
    """

    def __init__(self, pages: LivePages, name: str, lists: bool = False):
        super().__init__()
        self._pages = pages
        self._name = name
        self._lists = lists

    def answer_get(self, request: Request) -> Answer:
        if self._lists and self._pages.may_list(request):
            return self._pages.of_list(request, ".", permitted=True)
        return self._pages.of_channels(request, (self._name,), ".")
