"""The result of a check, under its earlier name."""

from cache_pipeline.check_result import CheckResult, CheckStatus

__all__ = ["CheckResult", "CheckStatus"]
