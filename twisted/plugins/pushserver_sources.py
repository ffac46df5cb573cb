"""The types of sources that come with ``pushserver``.

None of them is imported here: one whose library is missing must not take the others away.
"""

from pushserver.sources.kinds import BuiltIn

random = BuiltIn("random", "pushserver.sources.number.RANDOM")
cron = BuiltIn("cron", "pushserver.sources.cron.CRON", "cron")
tail = BuiltIn("tail", "pushserver.sources.tail.TAIL")
command = BuiltIn("command", "pushserver.sources.command.COMMAND")
poll = BuiltIn("poll", "pushserver.sources.poll.POLL")
feed = BuiltIn("feed", "pushserver.sources.feed.FEED", "feed")
sse = BuiltIn("sse", "pushserver.sources.stream.SSE")
webhook = BuiltIn("webhook", "pushserver.sources.webhook.WEBHOOK")
