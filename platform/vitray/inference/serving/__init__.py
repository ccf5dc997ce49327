"""A model behind HTTP: what is asked, how images of many requests become one batch, and which version answers.

Nothing here knows Ray: ``vitray.cluster.serving`` brings the replicas, and tests bring a model in their own process.
Only ``shelf`` imports torch, since the process that speaks HTTP holds no model.
"""
