"""Warehouses that history is exported to: databases and lakes of others, and folders of Parquet files."""
