"""The champion rule: a new version takes the alias ``champion`` unless the one that has it is better for sure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from vitray.data.images import ShardedImages
from vitray.errors import StoreAwayError, VitrayError
from vitray.inference.compare import compare
from vitray.inference.score import Score, score_package
from vitray.models.package import read_info
from vitray.tracking.registry import ModelVersion, download

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class ChampionComparison:
    """The new model beside version ``version`` of ``model``, which is the champion, on the same test images.

    ``ours`` and ``theirs`` are accuracies (0..1), ``interval`` the 95 % one of ours minus theirs. Where the two cannot
    be compared, ``obstacle`` says why, and there are no numbers but ``ours``.
    """

    model: str
    version: int
    created_ms: int
    ours: float
    theirs: float | None = None
    interval: tuple[float, float] | None = None
    images: int = 0
    trained_on_other_data: bool = False
    obstacle: str | None = None

    @property
    def worse(self) -> bool:
        """By more than the interval: chance does not explain it."""
        return self.interval is not None and self.interval[1] < 0

    @property
    def wins(self) -> bool:
        """Whether it becomes the champion. What cannot be compared does not: others rely on what the alias means."""
        return self.interval is not None and not self.worse

    def describe(self) -> str:
        """The comparison in a sentence."""
        if self.theirs is None or self.interval is None:
            return f"it cannot be compared with version {self.version}, the champion: {self.obstacle}"
        low, high = self.interval
        verdict = "worse than" if self.worse else "better than" if low > 0 else "not worse than"
        other = ", which was trained on other data" if self.trained_on_other_data else ""
        return (
            f"it is {verdict} version {self.version}, the champion{other}: {self.ours:.4f} against {self.theirs:.4f} "
            f"on the same {self.images} test images (difference {self.ours - self.theirs:+.4f}, 95 % interval "
            f"{low:+.4f} to {high:+.4f})"
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ChampionComparison:
        interval = values["interval"]
        return cls(**{**values, "interval": tuple(interval) if interval else None})


def compare_with(champion: ModelVersion, score: Score, data: ShardedImages, tracking_uri: str) -> ChampionComparison:
    """Score the champion on the images of ``score``. A champion that cannot be had or scored is an obstacle, no error:
    it must not keep a sweep from its end.

    Raises:
        StoreAwayError: the store does not answer, and may by and by.
    """
    alone = ChampionComparison(champion.name, champion.version, champion.created_ms, score.accuracy)
    try:
        package = download(champion.uri, tracking_uri=tracking_uri)
        info, _ = read_info(package)
        if set(info.classes) != set(data.classes):
            what = f"it knows other classes ({_few(info.classes)}) than these data have ({_few(data.classes)})"
            return replace(alone, obstacle=what)
        theirs = score_package(package, data, score.split)
    except StoreAwayError:
        raise  # it can be had by and by
    except VitrayError as error:
        return replace(alone, obstacle=f"{error.where}: {error.what}" if error.where else error.what)
    pair = compare(score, theirs)
    return replace(
        alone,
        ours=pair.first,
        theirs=pair.second,
        interval=pair.interval,
        images=pair.images,
        trained_on_other_data=info.dataset_fingerprint != data.fingerprint,
    )


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)}: {shown}, ..." if len(names) > 3 else shown
