"""Tests of the watermark: which data is visible when."""

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline_tests.simulator.vendor import AVAILABILITY, REPORTDATA, SettableClock, Vendor, offered, open_vendor

BUSY = SimulatorSettings(conversations_per_working_day=200_000)
MORNING = "2024-06-12T09:00:00Z/2024-06-12T09:58:00Z"
LAST_MINUTES = "2024-06-12T09:58:00Z/2024-06-12T10:00:30Z"
AHEAD = "2024-06-12T10:00:30Z/2024-06-12T12:00:00Z"


def _offered(vendor: Vendor, interval: str) -> int:
    return offered(vendor.aggregate(interval=interval, granularity=None, groupBy=None))


def _truth(vendor: Vendor, interval: str) -> int:
    return sum(row["offered"] for row in vendor.truth(interval))


def test_data_is_complete_only_below_the_watermark() -> None:
    with open_vendor(BUSY) as vendor:
        assert vendor.get(AVAILABILITY).json()["dataAvailabilityDate"] == "2024-06-12T09:58:00.000Z"
        assert _offered(vendor, MORNING) == _truth(vendor, MORNING) > 0
        assert 0 < _offered(vendor, LAST_MINUTES) < _truth(vendor, LAST_MINUTES)
        assert _offered(vendor, AHEAD) == 0 < _truth(vendor, AHEAD)


def test_late_rows_arrive_over_time() -> None:
    with open_vendor(BUSY) as vendor:
        counts = []
        for _ in range(6):
            counts.append(_offered(vendor, LAST_MINUTES))
            vendor.clock.seconds += 30
        assert counts == sorted(counts)
        assert counts[0] < counts[-1] == _truth(vendor, LAST_MINUTES)


def test_figures_below_the_watermark_do_not_change() -> None:
    metrics = ["nOffered", "tAnswered", "tAbandon", "tHandle", "oServiceLevel", "nTransferred"]
    with open_vendor(BUSY) as vendor:
        first = vendor.aggregate(interval=MORNING, metrics=metrics)
        vendor.clock.seconds += 40_000
        assert vendor.aggregate(interval=MORNING, metrics=metrics) == first


def test_job_sees_the_data_of_its_submission() -> None:
    with open_vendor(BUSY) as vendor:
        path = f"{REPORTDATA}/{vendor.submit(interval=LAST_MINUTES, columns=['offered'])}/results"
        vendor.clock.seconds += 3600
        page = vendor.get(path).json()
        assert sum(row["offered"] for row in page["rows"]) < _truth(vendor, LAST_MINUTES)
        assert page["dataAvailabilityDate"] == "2024-06-12T09:58:00.000Z"


def test_without_lag_all_data_is_visible() -> None:
    clock = SettableClock("2024-06-12T10:00:00+00:00")
    with open_vendor(BUSY.model_copy(update={"watermark_lag_seconds": 0.0}), clock) as vendor:
        assert vendor.get(AVAILABILITY).json()["dataAvailabilityDate"] == "2024-06-12T10:00:00.000Z"
        interval = "2024-06-12T09:00:00Z/2024-06-12T10:00:00Z"
        assert _offered(vendor, interval) == _truth(vendor, interval)
