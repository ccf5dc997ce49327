#!/bin/sh
# secrets.sh: make the passwords and tokens that compose.yaml wants, once. What is there stays.
#
#   docker/secrets.sh                   docker/secrets/ (folder 0700, files 0600) and docker/.env (from .env.example)
#
# The files must be readable by the user of the containers. That is you; where you are root, it is user 1000.
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
secrets=$here/secrets
uid=$(id -u)
[ "$uid" -ne 0 ] || uid=1000

secret() { # a new one, 256 bits in hexadecimal digits: nothing that a URI or a configuration file would read otherwise
    [ -s "$secrets/$1" ] || head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$secrets/$1"
}

mkdir -p "$secrets"
for name in ray_auth_token postgres_password mlflow_admin_password mlflow_user_password mlflow_session_key; do
    secret "$name"
done
# The same passwords in the files that their programs read by themselves: libpq's, and MLflow's client's.
printf 'postgres:5432:mlflow:mlflow:%s\n' "$(cat "$secrets/postgres_password")" >"$secrets/pgpass"
printf '[mlflow]\nmlflow_tracking_username = vitray\nmlflow_tracking_password = %s\n' \
    "$(cat "$secrets/mlflow_user_password")" >"$secrets/mlflow_credentials"
[ -e "$here/.env" ] || sed "s/^VITRAY_UID=.*/VITRAY_UID=$uid/" "$here/.env.example" >"$here/.env"
[ "$(id -u)" -ne 0 ] || chown -R "$uid" "$secrets"
echo "the secrets are in $secrets, the settings in $here/.env"
