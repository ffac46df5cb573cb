"""The process: options, assembly, start, stop, signals."""
