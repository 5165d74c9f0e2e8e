"""Prefect flows; they only compose `pipeline` and `fasten_model`."""
