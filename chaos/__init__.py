"""Proof under trouble: the fleet on simulated time, live processes with faults, and load."""
