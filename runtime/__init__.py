"""Clock, chance, background loops, signals, settings: what reaches outside the process and is no backend."""
