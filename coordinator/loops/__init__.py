"""Background work: each `run_once(now)` is bounded and gives a report."""
