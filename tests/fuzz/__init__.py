"""Every parser of ours against random input: `make fuzz`, and a few examples in the unit tests."""
