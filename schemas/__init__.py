"""The vocabulary of the fleet: frozen models and pure helpers. Imports nothing else of this project."""
