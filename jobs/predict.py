"""Classify images on the cluster this job runs on: ``python jobs/predict.py MODEL IMAGES... [options]``.

How to submit: jobs/train.py.
"""

from vitray.cli import run_as_job

if __name__ == "__main__":
    run_as_job("predict")
