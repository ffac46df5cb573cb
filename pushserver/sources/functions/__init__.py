"""Sources made of functions, generators and coroutines."""
