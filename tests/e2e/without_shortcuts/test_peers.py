from tests.peers.test_restart import *
