from tests.e2e.test_users import *
