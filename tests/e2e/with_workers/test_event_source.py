from tests.e2e.test_event_source import *

# Its responses are made in the browser.
del TestTheEventSource  # noqa: F821
