from tests.e2e.test_recovery import *
