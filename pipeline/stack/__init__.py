"""The embedded stack: Label Studio, Prefect, a worker and MLflow on loopback, in one folder."""
