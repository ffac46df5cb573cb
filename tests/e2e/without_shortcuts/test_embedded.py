from tests.e2e.test_embedded import *
