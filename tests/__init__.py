"""The tests; those marked slow start real servers, browsers and builds."""
