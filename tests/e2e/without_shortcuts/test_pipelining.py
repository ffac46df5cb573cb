from tests.e2e.test_pipelining import *
