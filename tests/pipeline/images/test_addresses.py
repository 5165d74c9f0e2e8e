"""An address is judged by where it leads, in whatever way it is written."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.images.addresses import kind_of, literal
from pipeline.images.check import ImageConfig


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fd00:ec2::254", "a cloud's metadata"),
        ("fd00:ec2::23", "a cloud's metadata"),
        ("fd20:ce::254", "a cloud's metadata"),
        ("100.100.100.200", "a cloud's metadata"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "unspecified"),  # noqa: S104
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::7f00:1", "reserved"),
        ("8.8.8.8", None),
        ("10.1.2.3", None),
        ("192.168.0.9", None),
        ("2001:4860:4860::8888", None),
        ("fd12::9", None),
    ],
)
def test_what_no_image_comes_from(address: str, kind: str | None) -> None:
    assert kind_of(address) == kind


@pytest.mark.parametrize(("address", "kind"), [("127.0.0.1", "loopback"), ("169.254.169.254", "link-local")])
def test_ipv4_inside_ipv6_is_what_it_leads_to(address: str, kind: str) -> None:
    high, low = socket.inet_aton(address)[:2].hex(), socket.inet_aton(address)[2:].hex()
    inverted = bytes(255 - part for part in socket.inet_aton(address)).hex()
    for written in (
        f"::ffff:{address}",
        f"64:ff9b::{high}:{low}",
        f"2002:{high}:{low}::1",
        f"2001:0:4136:e378:8000:63bf:{inverted[:4]}:{inverted[4:]}",
    ):
        assert kind_of(written) == kind, written
    assert kind_of("::ffff:8.8.8.8") is None
    assert kind_of("64:ff9b::808:808") is None


@given(st.integers(0, 2**32 - 1))
def test_every_ipv4_address_is_the_same_in_each_spelling(number: int) -> None:
    dotted = socket.inet_ntoa(number.to_bytes(4, "big"))
    spellings = [dotted, str(number), hex(number), f"0{number:o}", f"{number >> 24}.{number & 0xFFFFFF}"]
    assert {str(literal(spelling)) for spelling in spellings} == {dotted}
    assert kind_of(f"::ffff:{dotted}") == kind_of(dotted)


def test_a_name_is_no_address() -> None:
    assert [literal(name) for name in ("localhost", "a.example", "", "1.2.3.4.5", "[::g]")] == [None] * 5


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.169.254:80",
        "2852039166",
        "0xa9.0xfe.0xa9.0xfe",
        "0.0.0.0:8080",
        "224.0.0.1",
        "[fe80::1]",
        "[::ffff:169.254.169.254]:80",
        "[fd00:ec2::254]",
    ],
)
def test_such_an_address_cannot_be_allowed(host: str) -> None:
    with pytest.raises(ConfigError, match="no image comes from there"):
        ImageConfig(allowed_hosts=(host,))


def test_loopback_can_be_allowed_by_its_own_name() -> None:
    for host in ("localhost:9000", "127.0.0.1:9000", "[::1]:9000", "10.0.0.7", "minio"):
        assert ImageConfig(allowed_hosts=(host,)).allowed_hosts == (host,)


@pytest.mark.parametrize("host", ["::1", "a b", "a:b", "a:1:2", "[::1", "[a]", "[::1]:x", ":80", "http://a", "a/b"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="must be a bare"):
        ImageConfig(allowed_hosts=(host,))


@pytest.mark.parametrize("bucket", ["", "s3://bucket", "/bucket", "bucket/", "bucket//a", "bucket/../other", "a b"])
def test_a_bucket_that_is_none_is_refused(bucket: str) -> None:
    with pytest.raises(ConfigError, match="allowed bucket"):
        ImageConfig(allowed_buckets=(bucket,))
