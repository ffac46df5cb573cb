from tests.e2e.test_clients import *
