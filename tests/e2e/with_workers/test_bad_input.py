from tests.e2e.test_bad_input import *
