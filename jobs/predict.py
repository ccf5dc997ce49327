"""Score images on the cluster this job runs on: ``python jobs/predict.py MODEL SOURCE... --to FILE [options]``.

It runs as a Ray Data job, a worker a GPU or core. Sources are URIs (s3://bucket/folder) or paths that all the machines
see; FILE is a path that lasts. A job that was stopped goes on when it is submitted again. How to submit: jobs/train.py.
"""

from vitray.cli import run_as_job

if __name__ == "__main__":
    run_as_job("predict")
