"""What is wrong with this machine, or with a cluster, and what to do about it."""

from vitray.cluster.doctor.examine import Question, examine
from vitray.cluster.doctor.finding import BLOCKS, OK, WARNING, Finding

__all__ = ["BLOCKS", "OK", "WARNING", "Finding", "Question", "examine"]
