#!/bin/sh
# secrets.sh | kubectl apply --filename -: the passwords and tokens of docker/secrets.sh as secrets of Kubernetes.
# It prints them, so send its output nowhere else; no value is in a command line.
set -eu
secrets=$(cd "$(dirname "$0")/.." && pwd)/secrets
[ -s "$secrets/ray_auth_token" ] || { echo "run docker/secrets.sh first" >&2; exit 2; }

secret() { # NAME KEY=FILE ...
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: vitray}\ntype: Opaque\ndata:\n' "$1"
    shift
    for pair in "$@"; do printf '  %s: %s\n' "${pair%%=*}" "$(base64 <"$secrets/${pair#*=}" | tr -d '\n')"; done
}

secret ray-token auth_token=ray_auth_token
secret postgres password=postgres_password
secret mlflow-admin password=mlflow_admin_password session-key=mlflow_session_key
secret mlflow-user password=mlflow_user_password
