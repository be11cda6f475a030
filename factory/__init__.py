"""A factory: a process on a machine that runs jobs: sees the vocabulary, the bus and HTTP; no store, no coordinator."""
