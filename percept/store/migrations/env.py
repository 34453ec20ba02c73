"""Alembic's entry point; :func:`percept.store.store.open_store` passes the connection."""

from __future__ import annotations

from alembic import context

from percept.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
