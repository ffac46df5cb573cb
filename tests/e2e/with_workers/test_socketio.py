from tests.e2e.test_socketio import *
