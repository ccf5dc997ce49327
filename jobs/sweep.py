"""Run a sweep on the cluster this job runs on: ``python jobs/sweep.py CONFIG [section.key=value ...]``.

How to submit: jobs/train.py.
"""

from vitray.cli import run_as_job

if __name__ == "__main__":
    run_as_job("sweep", "run")
