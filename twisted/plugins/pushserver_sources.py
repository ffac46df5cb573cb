"""Registers the types of sources that come with ``pushserver``.

It imports none of them: a missing library of one type must not disable the others.
"""

from pushserver.sources.registry import BuiltIn

random = BuiltIn("random", "pushserver.sources.types.random.RANDOM")
cron = BuiltIn("cron", "pushserver.sources.types.cron.CRON", "cron")
tail = BuiltIn("tail", "pushserver.sources.types.tail.source.TAIL")
command = BuiltIn("command", "pushserver.sources.types.command.source.COMMAND")
poll = BuiltIn("poll", "pushserver.sources.types.json_poll.POLL")
feed = BuiltIn("feed", "pushserver.sources.types.feed.source.FEED", "feed")
sse = BuiltIn("sse", "pushserver.sources.types.sse.source.SSE")
webhook = BuiltIn("webhook", "pushserver.sources.types.webhook.source.WEBHOOK")
