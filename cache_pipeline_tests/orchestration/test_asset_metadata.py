"""Tests of what Dagster shows of an asset: tables, columns, lineage, code, pools and automation."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.query.report import Report
from cache_pipeline_tests.orchestration.workbench import Bench, declaration, step_failures, write_reports


def _specs(environment: pytest.MonkeyPatch, folder: Path, **changes: Any) -> dict[str, dg.AssetSpec]:
    write_reports(folder / "reports", [declaration(**changes)])
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(folder / "reports"))
    return {spec.key.path[-1]: spec for spec in _report_specs()}


def _report_specs() -> list[dg.AssetSpec]:
    """Return the assets of reports; those of names belong to no declaration."""
    return [spec for spec in build_defs().resolve_all_asset_specs() if spec.key.path[0] == "calls_hour"]


def _described(spec: dg.AssetSpec) -> dict[str, str]:
    schema = spec.metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    return {column.name: column.description or "" for column in schema.columns}


def test_assets_name_their_storage_and_table(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    specs = _specs(environment, tmp_path)
    assert {layer: spec.metadata["dagster/storage_kind"] for layer, spec in specs.items()} == {
        "staged": "parquet",
        "history": "postgres",
        "hot": "redis",
        "edge": "parquet",
    }
    assert specs["history"].metadata["dagster/table_name"] == "reporting.calls_hour"
    assert all(spec.kinds == {layer, spec.metadata["dagster/storage_kind"]} for layer, spec in specs.items())


def test_columns_derive_from_the_asset_before(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    specs = _specs(environment, tmp_path)
    assert "dagster/column_lineage" not in specs["staged"].metadata
    for layer, upstream in (("history", "staged"), ("hot", "history"), ("edge", "history")):
        lineage = specs[layer].metadata["dagster/column_lineage"]
        assert isinstance(lineage, dg.TableColumnLineage)
        assert lineage.deps_by_column == {
            name: [dg.TableColumnDep(dg.AssetKey(["calls_hour", upstream]), name)] for name in _described(specs[layer])
        }


def test_edge_shows_published_columns_only(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    specs = _specs(environment, tmp_path, metrics=["nOffered", "tTalk"], edge_columns=["nOffered"])
    assert list(_described(specs["edge"])) == ["interval_start", "interval_end", "queue_id", "n_offered"]
    assert "t_talk_sum" in _described(specs["history"])


def test_edge_of_rows_shows_their_counts(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = {"rows": "conversations", "delivery": None, "group_by": [], "expected_groups": None, "volume_metric": None}
    specs = _specs(environment, tmp_path, **rows, metrics=["tTalk"], edge_group_by=["mediaType"])
    assert list(_described(specs["edge"])) == [
        "interval_start",
        "interval_end",
        "media_type",
        "conversations",
        "t_talk",
    ]
    lineage = specs["edge"].metadata["dagster/column_lineage"]
    assert isinstance(lineage, dg.TableColumnLineage)
    assert "conversations" not in lineage.deps_by_column


@pytest.mark.parametrize(
    ("changes", "column", "description"),
    [
        (
            {"metrics": ["nOffered", "tHandle"]},
            "t_handle_sum",
            "tHandle, total in milliseconds: time that agents spent on interactions: talk, hold and after-call work",
        ),
        ({"metrics": ["nOffered", "tHandle"]}, "t_handle_count", "tHandle, number of events"),
        ({}, "n_offered", "nOffered, number of events: interactions offered to a queue"),
        ({}, "queue_id", "queueId: id of the queue"),
        (
            {"metrics": ["nOffered", "oServiceLevel"]},
            "o_service_level_numerator",
            "oServiceLevel, numerator of the share: interactions answered within the service level's time, of all that count",
        ),
        ({"metrics": ["nOffered", "tNewMetric"]}, "t_new_metric_max", "tNewMetric, longest in milliseconds"),
    ],
)
def test_columns_are_described_by_unit_and_definition(
    environment: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], column: str, description: str
) -> None:
    assert _described(_specs(environment, tmp_path, **changes)["history"])[column].startswith(description)


def test_code_version_is_the_meaning_of_the_declaration(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def versions(**changes: Any) -> dict[str, str | None]:
        return {layer: spec.code_version for layer, spec in _specs(environment, tmp_path, **changes).items()}

    declared = versions()
    assert None not in declared.values()
    for same in ({"description": "Other words"}, {"delivery": "async"}, {"owners": []}, {"expected_groups": 9}):
        assert versions(**same) == declared
    for other in ({"metrics": ["nOffered", "tTalk"]}, {"time_zone": "UTC", "granularity": "P1D"}, {"group_by": []}):
        assert not set(versions(**other).items()) & set(declared.items())
    published = versions(edge_columns=["nOffered"], min_cell_count=5)
    assert {layer for layer in declared if published[layer] != declared[layer]} == {"edge"}
    both = {"metrics": ["nConnected", "nOffered"], "min_cell_count": 5}
    assert versions(**both)["edge"] != versions(**both, volume_metric="nConnected")["edge"]


def test_code_references_name_the_declarations_line(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _specs(environment, tmp_path)
    path = tmp_path / "reports" / "calls_hour.yaml"
    path.write_text("# Calls by hour.\n" + path.read_text())
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if text.startswith("name:"))
    for spec in _report_specs():
        found = spec.metadata["dagster/code_references"]
        assert isinstance(found, dg.CodeReferencesMetadataValue)
        (reference,) = found.code_references
        assert isinstance(reference, dg.LocalFileCodeReference)
        assert (reference.file_path, reference.line_number) == (str(path), line)
        assert reference.label == "reports/calls_hour.yaml"


def test_fetch_takes_a_slot_of_the_vendors_pool(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_reports(tmp_path / "reports", [declaration()])
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    nodes = build_defs().resolve_job_def("calls_hour_job").all_node_defs
    pools = {node.name: node.pool for node in nodes if isinstance(node, dg.OpDefinition)}
    assert {name: pool for name, pool in pools.items() if pool} == {"staged__calls_hour": "genesys_api"}


def test_run_records_row_counts(bench: Bench, instance: dg.DagsterInstance) -> None:
    days = ("2024-06-10", "2024-06-11")
    result = bench.run(instance, *days)
    assert result.success, step_failures(result)
    bench.run(instance, days[0])
    for layer in ("staged", "history"):
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(bench.key(layer), asset_partitions=list(days)), limit=50
        ).records
        latest = {record.partition_key: record.asset_materialization for record in reversed(records)}
        counts = {key: each.metadata["dagster/partition_row_count"].value for key, each in latest.items() if each}
        assert set(counts) == set(days)
        assert all(isinstance(count, int) and count > 0 for count in counts.values())
    for layer in ("history", "edge"):
        last = instance.get_latest_materialization_event(bench.key(layer))
        assert last is not None
        assert last.asset_materialization is not None
        assert last.asset_materialization.metadata["dagster/row_count"].value == sum(counts.values())


def _request(definitions: dg.Definitions, instance: dg.DagsterInstance, at: datetime, cursor: Any = None) -> Any:
    return dg.evaluate_automation_conditions(
        defs=definitions, instance=instance, evaluation_time=at, cursor=cursor, asset_selection=dg.AssetSelection.all()
    )


def test_hot_and_edge_follow_history(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))
    report = Report.model_validate(declaration())
    definitions, at = build_defs(reports={report.name: report}), datetime(2024, 6, 12, 12, tzinfo=UTC)

    def key(layer: str) -> dg.AssetKey:
        return dg.AssetKey([report.name, layer])

    def requested(result: Any) -> set[str]:
        return {layer for layer in ("staged", "history", "hot", "edge") if result.get_num_requested(key(layer))}

    with dg.DagsterInstance.ephemeral() as instance:
        first = _request(definitions, instance, at)
        assert not requested(first), "a deployment that is switched on does not rewrite everything"
        instance.report_runless_asset_event(dg.AssetMaterialization(key("history"), partition="2024-03-04"))
        second = _request(definitions, instance, at, first.cursor)
        assert requested(second) == {"hot", "edge"}
        assert second.get_requested_partitions(key("edge")) == {"2024-03-04"}
        third = _request(definitions, instance, at, second.cursor)
        assert not requested(third), "a failure is not repeated without end"
        for layer in ("history", "edge"):
            instance.report_runless_asset_event(dg.AssetMaterialization(key(layer), partition="2024-03-05"))
        assert requested(_request(definitions, instance, at, third.cursor)) == {"hot"}
