"""Where answers are kept: hot (Redis), history (PostgreSQL), edge (Parquet on a static store)."""
