"""The process: options, assembly, ports, start, reload, stop, signals, log output."""
