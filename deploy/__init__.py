"""Ways to run the fleet."""
