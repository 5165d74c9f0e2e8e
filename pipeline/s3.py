"""Where objects are kept that have an `s3://` address: AWS, or whatever else speaks its API.

Credentials are no setting of ours. They come from the standard AWS places (`AWS_ACCESS_KEY_ID` and
`AWS_SECRET_ACCESS_KEY` in the environment, `~/.aws`, the machine's own role), found by the AWS SDK inside pyarrow.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

from pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Config:
    """How to reach the object store."""

    endpoint: str | None = None
    """`http(s)://host:port` of another store than AWS (MinIO, Ceph, R2); it holds no bucket and no path."""
    region: str | None = None
    """Region of the buckets; unless given, what the AWS environment says."""
    timeout_s: float = 30.0
    """How long a connection may take to open, and how long it may stay silent."""

    def __post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise ConfigError(f"S3: timeout_s is {self.timeout_s}; it must be above 0")
        if self.endpoint is None:
            return
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ConfigError("FASTEN_S3_ENDPOINT must look like http://host:port, without a path")
        if parts.username or parts.password:
            raise ConfigError("FASTEN_S3_ENDPOINT must hold no password; set AWS_ACCESS_KEY_ID and …_SECRET_ACCESS_KEY")

    def filesystem(self, *, attempts: int = 3) -> S3FileSystem:
        """A connection of its own to the store; asks nothing of it yet. Serves many threads."""
        options: dict[str, object] = {
            "connect_timeout": self.timeout_s,
            "request_timeout": self.timeout_s,
            "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=attempts),
        }
        if self.endpoint is not None:
            parts = urlsplit(self.endpoint)
            options |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
        if self.region is not None:
            options["region"] = self.region
        return S3FileSystem(**options)
