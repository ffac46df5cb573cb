"""The types of sources that come with ``pushserver``.

None of them is imported here: one whose library is missing must not take the others away.
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
