"""What is stored in PostgreSQL: rows with their coverage, and the ledger of upstream queries."""
