from tests.e2e.test_fallback import *
from tests.e2e.test_fallback import _watching as _watching
