r"""Train one experiment on the cluster this job runs on: ``python jobs/train.py CONFIG [section.key=value ...]``.

``vitray jobs submit train CONFIG`` does this and more: it checks the config first, sends it along with the vitray that
is installed here, and lets a stopped job save a checkpoint. With Ray's own tool:

    ray job submit --address http://HEAD:8265 -- python jobs/train.py /shared/my.yaml train.epochs=20

That is all where vitray is installed on the cluster's machines and their VITRAY_HOME is a folder that all of them see.
Where only its dependencies are installed, send the package along, from the repository's root:

    ray job submit --address http://HEAD:8265 --working-dir . --runtime-env-json \
        '{"py_modules": ["platform/vitray"], "env_vars": {"VITRAY_HOME": "/shared/vitray",
          "RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "120"}}' \
        -- python jobs/train.py configs/digits.yaml

The last two let `ray job stop` wait for a checkpoint: by default it kills after three seconds. A cluster with a token
(RAY_AUTH_MODE=token) wants RAY_AUTH_MODE and RAY_AUTH_TOKEN exported by who submits.
"""

from vitray.cli import run_as_job

if __name__ == "__main__":
    run_as_job("train")
