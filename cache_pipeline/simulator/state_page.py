"""The status page of the simulator: clients and their remaining quota, jobs, calls and pending faults."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator.faults import Faults
from cache_pipeline.simulator.genesys_jobs import GENESYS_STATES, JobService
from cache_pipeline.simulator.intervals import iso
from cache_pipeline.simulator.jobs import job_progress
from cache_pipeline.simulator.request_gate import Gate
from cache_pipeline.simulator.state import Simulator

_MAX_SHOWN_JOBS = 50
_REFRESH_SECONDS = 5
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1b1b1b;
       background: #fff }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; width: 100% }
h2, caption { text-align: left; font-weight: 600; font-size: 1.1rem; margin: 0; padding: .25rem 0 }
.table { overflow-x: auto }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #ccc; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
code { font-size: .9em; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #161616 } th, td { border-color: #444 } }
"""
# A page that reloads as a whole would take the reader's place in it, and what is selected. So this waits while someone reads a table.
_SCRIPT = f"""
setInterval(async () => {{
  if (document.hidden || !getSelection().isCollapsed || document.activeElement.closest('.table')) return
  const answer = await fetch(location.href, {{ headers: {{ Accept: 'text/html' }} }}).catch(() => null)
  if (!answer?.ok) return
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html')
  document.querySelector('main').replaceWith(page.querySelector('main'))
}}, {_REFRESH_SECONDS * 1000})
"""
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_SCRIPT_HASH}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}

Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]


class StatePage:
    """The status page at ``/simulator``; JSON if the client accepts it."""

    def __init__(self, simulator: Simulator, job_service: JobService, gates: Iterable[tuple[str, Gate]]) -> None:
        self._simulator = simulator
        self._job_service = job_service
        self._gates = tuple(gates)

    def routes(self) -> list[Route]:
        """Return the unauthenticated route."""
        return [Route("/simulator", self._answer, methods=["GET"])]

    async def _answer(self, request: Request) -> Response:
        tables = [self._clients(), await self._jobs(), self._calls(), self._faults()]
        if "application/json" in request.headers.get("accept", ""):
            content = {
                caption.lower(): [dict(zip(names, row, strict=True)) for row in rows] for caption, names, rows in tables
            }
            return JSONResponse({**self._times(), **content}, headers={"Cache-Control": "no-store"})
        return HTMLResponse(_page(self._times(), tables), headers=_HEADERS)

    def _times(self) -> dict[str, str]:
        now = self._simulator.clock.now()
        return {
            "now": self._simulator.vendor_time(now),
            "watermark": iso(self._simulator.watermark_ms(now)),
            "details watermark": iso(self._simulator.details_watermark_ms(now)),
            "seed": str(self._simulator.settings.seed),
        }

    def _clients(self) -> Table:
        settings, tokens = self._simulator.settings, self._simulator.tokens.valid_tokens(self._simulator.clock.now())
        rows = [
            [
                name,
                sum(token.client_id == name for token in tokens),
                *(f"{gate.remaining(name)} of {gate.limits[0].limit}" for _, gate in self._gates),
                _join(settings.client_permissions.get(name), "all"),
                _join(settings.client_divisions.get(name), "all"),
            ]
            for name in settings.clients
        ]
        quotas = [f"Remaining on {platform}" for platform, _ in self._gates]
        return "Clients", ["Client", "Valid tokens", *quotas, "Permissions", "Divisions"], rows

    async def _jobs(self) -> Table:
        now = self._simulator.clock.now()
        rows: list[list[object]] = []
        for job in reversed(self._job_service.store.jobs[-_MAX_SHOWN_JOBS:]):
            progress = await job_progress(job, now)
            state, vendor_time = GENESYS_STATES[progress.state], self._simulator.vendor_time
            times = [vendor_time(job.submitted_at), vendor_time(job.completes_at)]
            rows.append([job.id, job.path, state, *times, job.pages_read])
        return "Jobs", ["Job", "Endpoint", "State", "Submitted", "Done at", "Pages read"], rows

    def _calls(self) -> Table:
        calls = self._simulator.counters.snapshot()["calls"]
        rows = [[call["call"], call["client_id"] or "", call["status"], call["count"]] for call in calls]
        return "Calls", ["Call", "Client", "Status", "Count"], rows

    def _faults(self) -> Table:
        defaults = Faults().model_dump()
        current = self._simulator.faults.current.model_dump()
        return (
            "Faults",
            ["Fault", "Set to"],
            [[name, value] for name, value in current.items() if value != defaults[name]],
        )


def _join(values: Iterable[object] | None, default: str) -> str:
    return default if values is None else ", ".join(sorted(map(str, values))) or "none"


def _page(times: dict[str, str], tables: Iterable[Table]) -> str:
    summary = " · ".join(f"{escape(name)} <code>{escape(value)}</code>" for name, value in times.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>Simulated vendor</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>Simulated vendor</h1><p>{summary}</p>{''.join(map(_table, tables))}"
        "<p>Set faults with <code>POST /simulator/faults</code>, clear them with <code>DELETE</code>; "
        "the complete data is at <code>/simulator/truth</code>.</p></main>"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _table(table: Table) -> str:
    caption, names, rows = table
    if not rows:
        return f"<h2>{escape(caption)}</h2><p>None.</p>"
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td{_cell_class(value)}>{escape(str(value))}</td>" for value in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="table" role="region" aria-label="{escape(caption)}" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell_class(value: object) -> str:
    return ' class="number"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
