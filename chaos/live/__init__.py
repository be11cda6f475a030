"""Real servers and real processes, started, broken and ended by tests and chaos runs."""
