"""Which IP addresses an image may be fetched from.

A name on the allow-list is its owner's to point anywhere: at this machine, at the cloud's metadata service. What counts
is therefore the address that a connection is about to be made to, never its spelling.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

_NAT64 = ip_network("64:ff9b::/96")
_THIS_NETWORK = ip_network("0.0.0.0/8")
# Machines' own credentials, at addresses that are not link-local: AWS over IPv6 (of machines and of EKS pods), Google
# Cloud over IPv6, Alibaba Cloud, Azure.
_METADATA = tuple(map(ip_network, ("fd00:ec2::/32", "fd20:ce::254", "100.100.100.200", "168.63.129.16")))


def kind_of(address: str | Address) -> str | None:
    """What forbids the address (`loopback`, `link-local`, …); None where images may come from it.

    IPv4 addresses inside IPv6 ones (mapped, 6to4, Teredo, NAT64) are judged as what they lead to. Private networks are
    allowed: a company's own image host is on the allow-list because it is meant.
    """
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        found = _inside(found)
    if found.is_loopback:
        return "loopback"
    if found.is_link_local:
        return "link-local"
    if any(found in network for network in _METADATA):
        return "a cloud's metadata"
    if found.is_multicast:
        return "multicast"
    if found.is_unspecified or found in _THIS_NETWORK:
        return "unspecified"
    if found.is_reserved:
        return "reserved"
    return None


def literal(host: str) -> Address | None:
    """The address that `host` spells, in whatever way the system's resolver takes (`127.1`, `0x7f000001`, `[::1]`)."""
    try:
        return ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    try:
        return ip_address(socket.inet_aton(host))
    except OSError:
        return None


def _inside(address: IPv6Address) -> Address:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None and kind_of(address.sixtofour):
        return address.sixtofour
    if address.teredo is not None and kind_of(address.teredo[1]):
        return address.teredo[1]
    return address
