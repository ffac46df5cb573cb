from tests.e2e.test_event_source import *
