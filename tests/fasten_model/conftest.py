"""Property tests draw the same cases every time, on however slow a machine, and leave no files behind."""

from hypothesis import settings

settings.register_profile("fasten_model", deadline=None, derandomize=True, database=None)
settings.load_profile("fasten_model")
