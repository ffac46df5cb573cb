from tests.e2e.test_fanout import *
