#!/bin/sh
# from-files.sh COMMAND ...: run it with the variable MLFLOW_X set to what the file named in MLFLOW_X_FILE holds.
# MLflow reads some secrets from variables only; so they stand in no file of Compose's and in no `docker inspect`.
set -eu
for name in $(env | sed -n 's/^\(MLFLOW_[A-Z_]*\)_FILE=.*/\1/p'); do
    eval "file=\$${name}_FILE"
    value=$(cat "$file") || exit 1
    unset "${name}_FILE"
    export "$name=$value"
done
exec "$@"
