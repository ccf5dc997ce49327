"""Prepare a dataset on the cluster this job runs on: ``python jobs/prepare.py SOURCE DEST [options]``.

It runs as a Ray Data job over all of the cluster's machines. SOURCE and DEST are URIs (s3://bucket/folder), or folders
that all the machines see. How to submit: jobs/train.py.
"""

from vitray.cli import run_as_job

if __name__ == "__main__":
    run_as_job("data", "prepare")
