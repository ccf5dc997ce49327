"""Sweeps: the space, the warm trials, and what becomes of the winner. Ray Tune is the engine."""
