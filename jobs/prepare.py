"""Prepare a dataset on the cluster this job runs on: ``python jobs/prepare.py SOURCE DEST [options]``.

DEST must be a folder that all machines of the cluster see. How to submit: jobs/train.py.
"""

from vitray.cli import run_as_job

if __name__ == "__main__":
    run_as_job("data", "prepare")
