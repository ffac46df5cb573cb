"""The live page in a real browser, against a server that exists only inside the test."""
