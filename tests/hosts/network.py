"""Networks of containers without an engine: a bridge for each, and network namespaces with a leg in some of them."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field


def ip(*words: str) -> str:
    """iproute2's ``ip``; raises AssertionError with what it says."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@dataclass
class Network:
    """A bridge with the address .1 of a network of its own, which is the host, as it is for an engine."""

    bridge: str
    prefix: str  # the first three numbers of its addresses
    internal: bool  # no route to anywhere else
    taken: int = 1

    def next_address(self) -> str:
        self.taken += 1
        return f"{self.prefix}.{self.taken}"


@dataclass
class Networks:
    """All networks and namespaces of one run, under names that nobody else has; :meth:`remove` leaves nothing."""

    run: str = field(default_factory=lambda: secrets.token_hex(3))
    networks: dict[str, Network] = field(default_factory=dict)
    namespaces: list[str] = field(default_factory=list)
    _legs: list[str] = field(default_factory=list)
    _leg_of: dict[tuple[str, str], str] = field(default_factory=dict)  # by namespace and network

    def add_network(self, name: str, *, internal: bool) -> None:
        bridge = f"v{self.run}-b{len(self.networks)}"
        ip("link", "add", bridge, "type", "bridge")
        known = ip("-4", "-o", "address")
        prefix = next(p for p in iter(lambda: f"10.213.{secrets.randbelow(250) + 1}", "") if f" {p}." not in known)
        self.networks[name] = Network(bridge, prefix, internal)
        ip("address", "add", f"{prefix}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")

    def add_namespace(self, name: str, networks: list[str]) -> tuple[str, dict[str, str]]:
        """A namespace with a leg in each of the networks: its name, and its addresses by network."""
        namespace = f"v{self.run}-{name}"
        ip("netns", "add", namespace)
        self.namespaces.append(namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
        addresses = {}
        for position, wanted in enumerate(networks):
            network = self.networks[wanted]
            outside, inside = f"v{self.run}-{len(self._legs)}", f"eth{position}"
            ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", namespace)
            self._legs.append(outside)
            self._leg_of[namespace, wanted] = outside
            ip("link", "set", outside, "master", network.bridge, "up")
            addresses[wanted] = network.next_address()
            ip("-n", namespace, "address", "add", f"{addresses[wanted]}/24", "dev", inside)
            ip("-n", namespace, "link", "set", inside, "up")
            if not network.internal and "default" not in ip("-n", namespace, "route"):
                ip("-n", namespace, "route", "add", "default", "via", f"{network.prefix}.1")
        return namespace, addresses

    @contextlib.contextmanager
    def cut(self, network: str, *namespaces: str) -> Iterator[None]:
        """Packets between any two of these are dropped, without a word to either; all others go their way."""
        legs = [self._leg_of[namespace, network] for namespace in namespaces]
        for leg in legs:
            ip("link", "set", "dev", leg, "type", "bridge_slave", "isolated", "on")
        try:
            yield
        finally:
            for leg in legs:
                ip("link", "set", "dev", leg, "type", "bridge_slave", "isolated", "off")

    def listening(self, namespace: str) -> set[tuple[str, int]]:
        """Addresses and ports that take TCP connections in a namespace."""
        pairs = [line.split()[3].rpartition(":") for line in ip("netns", "exec", namespace, "ss", "-Htln").splitlines()]
        return {
            (address.strip("[]").removeprefix("::ffff:").replace("*", "::"), int(port)) for address, _, port in pairs
        }

    def remove(self) -> None:
        # A namespace's legs go with it, but later.
        links = [*self._legs, *(network.bridge for network in self.networks.values())]
        commands = [["link", "delete", link] for link in links]
        commands += [["netns", "delete", namespace] for namespace in self.namespaces]
        for command in commands:
            with contextlib.suppress(AssertionError):
                ip(*command)
        self._legs.clear()
        self.namespaces.clear()
        self.networks.clear()
