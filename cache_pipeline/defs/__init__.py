"""Definitions of this project beside the declared reports: ``dg scaffold defs`` writes them here, and they are loaded."""
