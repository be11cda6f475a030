"""The message bus: one small port, and its implementations. It carries advice and requests, never truth."""
