"""Sources made from functions, generators and coroutines."""
