"""The data plane against what it stands on: a real Label Studio read with a bare client, a file system, Parquet."""
