"""`proxy`: the vendor's SDK straight to the vendor and through us."""
