"""Clusters: the local one that starts and stops with a command, and those one joins."""
