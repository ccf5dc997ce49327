"""Give the cluster a user of its own on the MLflow server; run once by compose.yaml and docker/kuberay.

The user may make experiments and models, and change what it has made; the administrator's password stays with the
administrator. Again with another password, it changes the password.
"""

import base64
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

SERVER = os.environ["MLFLOW_TRACKING_URI"]
ADMIN = f"admin:{os.environ['MLFLOW_AUTH_ADMIN_PASSWORD']}"
NAME, PASSWORD = "vitray", Path(os.environ["VITRAY_PASSWORD_PATH"]).read_text().strip()


def call(method: str, verb: str, body: dict[str, str]) -> None:
    """Raises urllib.error.HTTPError where the server refuses."""
    sign = base64.b64encode(ADMIN.encode()).decode()
    headers = {"Authorization": f"Basic {sign}", "Content-Type": "application/json"}
    url = f"{SERVER}/api/2.0/mlflow/users/{verb}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    urllib.request.urlopen(request, timeout=30).close()


try:
    call("POST", "create", {"username": NAME, "password": PASSWORD})
    print(f"MLflow has the user {NAME}")
except urllib.error.HTTPError as error:
    if "RESOURCE_ALREADY_EXISTS" not in error.read().decode(errors="replace"):
        raise
    call("PATCH", "update-password", {"username": NAME, "password": PASSWORD})
    print(f"MLflow had the user {NAME}: its password is set")
