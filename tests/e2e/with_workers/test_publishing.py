from tests.e2e.test_publishing import *
