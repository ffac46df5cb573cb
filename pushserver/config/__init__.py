"""Settings: the TOML file and the environment, checked and converted."""
