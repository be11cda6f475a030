"""What operators see and do: speaks HTTP only."""
