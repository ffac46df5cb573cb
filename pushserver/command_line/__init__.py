"""The commands of the command line, each in its module; `cli` adds them to its parser."""
