"""What a factory can run. An engine turns a grant into a command line, and its output into insights."""
