"""Definitions that `dg scaffold defs` adds."""
