from tests.e2e.test_browser import *
