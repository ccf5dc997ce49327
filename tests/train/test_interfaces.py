"""Ranks on several hosts talk over the interface that carries their Ray node's address."""

from __future__ import annotations

import os
import socket

import psutil
import pytest
import ray

from vitray.train.interfaces import _name_interface, interface_of


def test_every_address_of_this_host_belongs_to_its_interface() -> None:
    for name, addresses in psutil.net_if_addrs().items():
        for known in addresses:
            if known.family in (socket.AF_INET, socket.AF_INET6):
                assert interface_of(known.address.partition("%")[0]) == name


def test_an_address_of_nobody_here_names_none() -> None:
    assert interface_of("192.0.2.77") is None  # reserved for documentation


def test_what_a_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that what the rank sets is taken back after the test
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    _name_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == interface_of("127.0.0.1")
    assert os.environ["NCCL_SOCKET_IFNAME"] == "ib0"
