"""Of each image, the hash of the run's image that it was made from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add it; of images made before, it is not known."""
    op.add_column("stimulus", sa.Column("source_sha256", sa.String(length=64), nullable=True))
