"""A worker process on a machine: sees the vocabulary, the bus and HTTP; no store, no coordinator."""
