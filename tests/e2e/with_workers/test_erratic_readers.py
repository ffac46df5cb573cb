from tests.e2e.test_erratic_readers import *
