"""The columns of a scoring."""

from __future__ import annotations

import pyarrow as pa

SCORED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("top", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))),
        ("truth", pa.string()),
        ("error", pa.string()),
    ]
)
"""A row an image: what names it, the answer (null where there is none), the true class if known, what is wrong."""
