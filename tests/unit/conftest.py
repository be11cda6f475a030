"""Property tests look further than one example; on a busy machine only their result counts, not their speed."""

from hypothesis import HealthCheck, settings

settings.register_profile("unit", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")
