"""Whoever sits at the machine: reaches the published ports on its loopback, and has the files of docker/secrets."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from engine import Engine


class Laptop:
    """Its commands run in ``folder``, outside of every container."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.ray = f"http://127.0.0.1:{engine.variables['RAY_DASHBOARD_PORT']}"
        self.mlflow = f"http://127.0.0.1:{engine.variables['MLFLOW_PORT']}"
        self._engine, self._folder = engine, folder

    def run(self, *command: str, mlflow: bool = False, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """``mlflow``: by the published port; a job has the cluster's own."""
        return subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment(mlflow),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *command: str) -> subprocess.Popen[str]:
        """As :meth:`run`, without waiting for its end."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=self._folder, env=self._environment(), text=True, **pipes)

    def _environment(self, mlflow: bool = False) -> dict[str, str]:
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "VITRAY_", "MLFLOW_"))}
        ours |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self._engine.secret_file("ray_auth_token"))}
        if mlflow:
            ours |= {"MLFLOW_TRACKING_URI": self.mlflow, "MLFLOW_TRACKING_USERNAME": "vitray"}
            ours |= {"MLFLOW_TRACKING_PASSWORD": self._engine.secret("mlflow_user_password")}
        return ours | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{ours['PATH']}"}

    def ask_ray(self, path: str) -> Any:
        """A page of the dashboard's API, as JSON."""
        return _ask(self.ray + path, f"Bearer {self._engine.secret('ray_auth_token')}")

    def ask_mlflow(self, path: str) -> Any:
        """MLflow's REST API, as the cluster's user."""
        login = f"vitray:{self._engine.secret('mlflow_user_password')}"
        return _ask(f"{self.mlflow}/api/{path}", f"Basic {base64.b64encode(login.encode()).decode()}")

    def nodes(self) -> dict[str, str]:
        """State by address, of all nodes that the cluster has had."""
        listed = self.ask_ray("/api/v0/nodes?limit=100")["data"]["result"]["result"]
        return {node["node_ip"]: node["state"] for node in listed}


def _ask(url: str, authorization: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": authorization})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
