"""Who gets a job next, as far as it is known here. All of it is advice: the claim's commit decides."""
