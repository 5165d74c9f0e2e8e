"""Property tests take as long as they take: two cores are shared with servers."""

from hypothesis import settings

settings.register_profile("triage", deadline=None, derandomize=True, database=None)
settings.load_profile("triage")
