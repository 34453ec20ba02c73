"""Invitations, screening out, reasons and comments of reviews, retired golds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add them; nothing that is there changes."""
    op.create_table(
        "invite",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(length=100), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("group", sa.String(length=40), nullable=True),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("max_uses", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_invite_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invite")),
        sa.UniqueConstraint("study_id", "code", name=op.f("uq_invite_study_id_code")),
    )
    op.add_column("rating", sa.Column("reasons", sa.JSON(), nullable=True))
    op.add_column("rating", sa.Column("comment", sa.Text(), nullable=True))
    op.add_column("stimulus", sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("stimulus", sa.Column("retired_reason", sa.Text(), nullable=True))
    op.add_column(
        "observer",
        sa.Column("screened_out", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
