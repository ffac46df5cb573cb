from tests.e2e.test_floods import *
