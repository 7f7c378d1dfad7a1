"""Pure: what a report is, what a query means, and the algebra of intervals. No input or output, no clock."""
