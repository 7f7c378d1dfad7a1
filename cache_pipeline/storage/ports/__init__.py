"""What the rest of the package needs of its stores: a module a port, with the values that cross it.

PostgreSQL implements `History`, `Ledger`, `NameStore`, `JobStore`, `AdHocSeriesRegister`, `SubmittedQueries`, `ApiKeyStore` and
`StatusQueries`, Redis the others. The tests have `History`, `Ledger` and `SingleFlight` in memory too; those of history and ledger
pass the same tests as PostgreSQL.
"""
