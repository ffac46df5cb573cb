from tests.e2e.test_closes import *
