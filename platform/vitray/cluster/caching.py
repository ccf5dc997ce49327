"""What becomes of decoded images on a cluster, said before a training starts."""

from __future__ import annotations

from vitray.data.cache import Wish
from vitray.data.images import ShardedImages
from vitray.data.view import SplitView
from vitray.experiment import Experiment


def caching(experiment: Experiment, images: ShardedImages) -> str:
    """One clause for the log; this process is connected to Ray.

    Raises:
        ConfigError: the cache was asked for and does not fit ``data.cache_bytes``.
    """
    data = experiment.data
    view = SplitView(images.store, experiment.train.split)
    wish = Wish.of(view, experiment.model.size, data.augment)
    from vitray.data.node_cache import least_capacity

    size = f"{wish.bytes / 2**20:,.1f} MiB"
    if not wish.allowed(data.cache, data.cache_bytes):
        why = "data.cache is none" if data.cache == "none" else f"{size} are more than data.cache_bytes"
    elif wish.bytes <= least_capacity():
        return f"the images of {view.split} ({size}) are decoded once"
    else:
        why = f"{size} are more than half of a node's object store"
    return f"every epoch decodes its images ({why})"
