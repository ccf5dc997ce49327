"""Training: the loop, its checkpoints, and the worker group that serves experiment after experiment."""
