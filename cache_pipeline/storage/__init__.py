"""The three stores: hot (Redis), history (PostgreSQL) and edge (Parquet files on a static store)."""
