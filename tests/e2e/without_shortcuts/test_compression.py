from tests.e2e.test_compression import *
