"""Pure: no await, no clock, no chance. What may happen to a job, and what it then looks like."""
