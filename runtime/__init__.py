"""Clock, chance, background loops, settings, telemetry: every impurity that is not a backend."""
