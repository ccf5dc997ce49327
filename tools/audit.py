"""What is installed, as a CycloneDX SBOM, and whether anything of it is known to be vulnerable: ``make audit``.

Usage: ``python tools/audit.py SBOM PIP_AUDIT``. The list is of the environment of the Python that runs this. Exits with
0 nothing is known, 1 something is, 2 the database of vulnerabilities cannot be reached (the SBOM is written all the
same).
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_AWAY = ("ConnectionError", "Connection aborted", "Max retries", "timed out", "ProxyError", "503", "502", "403", "404")


def components() -> list[dict[str, Any]]:
    """Every installed distribution but vitray itself, by name."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name == "vitray":
            continue
        url = f"pkg:pypi/{name}@{distribution.version}"
        component = {"type": "library", "bom-ref": url, "name": name, "version": distribution.version, "purl": url}
        if licence := distribution.metadata["License-Expression"]:
            component["licenses"] = [{"expression": licence}]
        found[name] = component
    return [found[name] for name in sorted(found)]


def write_sbom(path: Path) -> int:
    """CycloneDX 1.6, JSON. Returns how many packages there are."""
    listed = components()
    own = {"type": "application", "name": "vitray", "version": importlib.metadata.version("vitray")}
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {"timestamp": datetime.now(UTC).isoformat(timespec="seconds"), "component": own},
        "components": listed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bom, indent=1) + "\n")
    return len(listed)


def audit(pip_audit: str) -> int:
    """Ask the OSV database about every installed version."""
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "installed.txt"
        pinned.write_text("".join(f"{one['name']}=={one['version']}\n" for one in components()))
        done = subprocess.run(
            [pip_audit, "--vulnerability-service", "osv", "--no-deps", "--disable-pip", "--requirement", str(pinned)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode and not done.stdout.strip() and any(word in done.stderr for word in _AWAY):
        last = (done.stderr.strip().splitlines() or [""])[-1]
        print(f"the database of vulnerabilities (osv.dev) cannot be reached, so nothing was checked: {last[:200]}")
        return 2
    print(done.stdout + done.stderr)
    return 1 if done.returncode else 0


if __name__ == "__main__":
    sbom = Path(sys.argv[1])
    print(f"{sbom}: {write_sbom(sbom)} packages")
    sys.exit(audit(sys.argv[2]))
