from tests.e2e.test_fallback import *
