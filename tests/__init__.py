"""The tests. Those marked slow start real servers, browsers and builds."""
