"""Alembic environment: run the migrations on the caller's connection, inside its transaction."""

from alembic import context

from cache_pipeline.storage.postgres.schemas import OWN_SCHEMA

context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema=OWN_SCHEMA,
)
context.run_migrations()
