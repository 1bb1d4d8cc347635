from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezthrottle_provider.customers import ClientAddress

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
PROXY = "10.0.0.1"


def seen(*lines, peer=PROXY, trusted=TRUSTED, header="x-forwarded-for"):
    headers = [(header.encode(), line.encode("latin-1")) for line in lines]
    return ClientAddress(trusted, header).address(peer, headers)


def test_without_trusted_proxies_the_peer_is_the_client_whatever_it_says():
    assert "203.0.113.9" == seen("198.51.100.1", peer="203.0.113.9", trusted=())
    assert "203.0.113.9" == seen("198.51.100.1", peer="203.0.113.9")


def test_control_the_same_header_from_a_trusted_proxy_is_believed():
    assert "198.51.100.1" == seen("198.51.100.1")


def test_the_client_is_the_first_from_the_right_that_is_no_proxy():
    assert "198.51.100.1" == seen("6.6.6.6, 198.51.100.1, 10.2.2.2, 10.3.3.3")


def test_when_all_are_proxies_the_farthest_one_counts():
    assert "10.2.2.2" == seen("10.2.2.2, 10.3.3.3")


def test_a_proxy_that_says_nothing_is_itself_the_client():
    assert PROXY == seen()
    assert PROXY == seen("")


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "unknown",
        "999.1.1.1",
        "1.2.3",
        "0x7f.1",
        "127.1",
        "1.2.3.4 5.6.7.8",
        "[::1",
        "1.2.3.4;x",
        "[1.2.3.4]",
        "1.2.3.4:x",
        "[]",
        "é",
    ],
)
def test_an_entry_that_does_not_parse_ends_the_walk_at_the_last_good_hop(nonsense):
    assert "10.3.3.3" == seen(f"198.51.100.1, {nonsense}, 10.3.3.3")


def test_several_lines_of_the_header_are_one_list_in_order():
    assert "198.51.100.1" == seen("6.6.6.6", "198.51.100.1", "10.3.3.3")


def test_only_the_one_configured_header_is_read():
    headers = [(b"x-real-ip", b"6.6.6.6"), (b"forwarded", b"for=6.6.6.6"), (b"x-forwarded-for", b"198.51.100.1")]

    assert "198.51.100.1" == ClientAddress(TRUSTED, "X-Forwarded-For").address(PROXY, headers)
    assert "6.6.6.6" == ClientAddress(TRUSTED, "x-real-ip").address(PROXY, headers)
    assert PROXY == ClientAddress(TRUSTED, "cf-connecting-ip").address(PROXY, headers)


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("198.51.100.1:4711", "198.51.100.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("[2001:db8:1:2:3::4]", "2001:db8:1::/48"),
        ("[2001:db8:1:2:3::4]:4711", "2001:db8:1::/48"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("[::ffff:198.51.100.1]:80", "198.51.100.1"),
        ("\t198.51.100.1 ", "198.51.100.1"),
    ],
)
def test_addresses_are_read_in_the_forms_that_proxies_write(entry, address):
    assert address == seen(entry)


def test_ipv6_peers_are_grouped_by_48_and_mapped_ones_are_ipv4():
    assert "2001:db8:1::/48" == seen(peer="2001:db8:1:ffff::1")
    assert "2001:db8:2::/48" == seen(peer="2001:db8:2::1")
    assert "203.0.113.9" == seen(peer="::ffff:203.0.113.9")
    assert "fe80::/48" == seen(peer="fe80::1%eth0")


def test_a_mapped_or_ipv6_peer_can_be_a_trusted_proxy():
    assert "198.51.100.1" == seen("198.51.100.1", peer="::ffff:10.0.0.1")
    assert "198.51.100.1" == seen("198.51.100.1", peer="fd00::1")


@pytest.mark.parametrize("peer", [None, "", "/run/app.sock", "unix:", "unix:/run/app.sock"])
def test_the_other_end_of_a_unix_socket_is_local_and_believed_only_when_configured(peer):
    assert "local" == seen("198.51.100.1", peer=peer)
    assert "198.51.100.1" == seen("198.51.100.1", peer=peer, trusted=(*TRUSTED, "unix"))
    assert "local" == seen(peer=peer, trusted=("unix",))


@pytest.mark.parametrize("entry", ["unix:", "/run/app.sock", "", "testclient"])
def test_a_header_cannot_pose_as_a_unix_socket_or_a_named_peer(entry):
    addresses = ClientAddress((*TRUSTED, "unix"))
    for peer in ("unix:", "/run/app.sock", "", "testclient", None):
        addresses.address(peer, [])

    assert PROXY == addresses.address(PROXY, [(b"x-forwarded-for", b"6.6.6.6, " + entry.encode())])


def test_a_peer_that_is_no_address_keeps_its_name():
    assert "testclient" == seen(peer="testclient")
    assert "x" * 64 == seen(peer="x" * 1000)
    assert "local" == seen(peer="a\nb")


# RFC 7239


def forwarded(*lines):
    return seen(*lines, header="forwarded")


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("for=198.51.100.1", "198.51.100.1"),
        ("For=198.51.100.1;proto=https;by=10.0.0.1", "198.51.100.1"),
        ('proto=https; for="198.51.100.1:4711"', "198.51.100.1"),
        ('for="[2001:db8:1::17]:4711"', "2001:db8:1::/48"),
        ("for=6.6.6.6, for=198.51.100.1, for=10.2.2.2", "198.51.100.1"),
        ('for=198.51.100.1;host="a;b"', "198.51.100.1"),
    ],
)
def test_the_forwarded_header_is_read_as_the_rfc_says(line, address):
    assert address == forwarded(line)


@pytest.mark.parametrize(
    "line",
    [
        "for=unknown",
        "for=_hidden",
        "proto=https",
        "for=",
        "for=198.51.100.1;for=6.6.6.6",
        'for="198.51.100.1',
        "for=198.51.100.1;;by=x",
        "198.51.100.1",
        "for=2001:db8::1",
    ],
)
def test_an_element_without_a_node_that_can_be_read_ends_the_walk(line):
    assert PROXY == forwarded(f"for=6.6.6.6, {line}")


@pytest.mark.parametrize(
    "host", ["x,for=6.6.6.6", "x,for=6.6.6.6;y=", r"x,for=6.6.6.6;y=\"z", r"x,for=6.6.6.6;y=\"z\"", "x, for=6.6.6.6, y"]
)
def test_an_element_inside_a_quoted_string_is_never_believed(host):
    assert PROXY == forwarded(f'for=198.51.100.1;host="{host}"')


def test_an_open_quote_sent_by_the_client_does_not_swallow_what_the_proxy_adds():
    assert "198.51.100.1" == forwarded('for="6.6.6.6', "for=198.51.100.1")


# Bounds


def test_at_most_32_hops_are_walked():
    assert "198.51.100.1" == seen("198.51.100.1," + ",".join(["10.1.1.1"] * 31))
    assert "10.1.1.1" == seen("198.51.100.1," + ",".join(["10.1.1.1"] * 32))


def test_at_most_8_kib_from_the_right_are_read_and_no_piece_of_an_entry():
    assert "198.51.100.1" == seen("198.51.100.1, 10.1.1.1".rjust(100_000, "x").replace("x198", "x,198"))
    assert "10.1.1.1" == seen("198.51.100.1," + " " * 8180 + ",10.1.1.1")
    assert PROXY == seen("9" * 9000)


def test_a_giant_header_costs_little():
    addresses = ClientAddress(TRUSTED, "forwarded")
    headers = [(b"forwarded", b'for="' * 200_000), (b"forwarded", b"a=b;" * 200_000)]
    began = time.perf_counter()

    assert PROXY == addresses.address(PROXY, headers)
    assert time.perf_counter() - began < 0.2


def test_what_is_remembered_of_peers_and_hops_is_bounded():
    addresses = ClientAddress(TRUSTED)
    for number in range(10_000):
        ip = str(ipaddress.ip_address(0x0B000000 + number))
        assert ip == addresses.address(ip, [])
        assert ip == addresses.address(PROXY, [(b"x-forwarded-for", ip.encode())])

    assert max(len(addresses._peers), len(addresses._hops)) <= 4096


hops = st.sampled_from(
    ["6.6.6.6", "10.1.1.1", "for=6.6.6.6", 'for="[fd00::1]"', "unix:", "local", "", ";", '"', "\\", "for=", "::1", "é"]
)
lines = st.lists(hops, max_size=40).map(", ".join) | st.text(st.characters(max_codepoint=255), max_size=300)
forged = st.lists(
    st.tuples(
        st.sampled_from([b"x-forwarded-for", b"forwarded", b"x-real-ip", b""]), lines.map(lambda t: t.encode("latin-1"))
    ),
    max_size=5,
)
peers = st.ip_addresses(v=4).map(str)
header_names = st.sampled_from(["x-forwarded-for", "forwarded", "x-real-ip"])


@given(peers, forged, header_names)
def test_no_forged_header_moves_a_caller_without_trusted_proxies(peer, headers, header):
    assert peer == ClientAddress((), header).address(peer, headers)


@given(peers | st.none() | st.text(max_size=100), forged, header_names)
def test_no_forged_header_behind_a_trusted_proxy_makes_it_raise(peer, headers, header):
    everybody = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"), "unix")
    address = ClientAddress(everybody, header).address(peer, headers)

    assert 0 < len(address) <= 64
    assert address.isprintable()
