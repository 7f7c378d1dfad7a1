"""The supported vendors: those of this package, and those that other packages register.

Another package registers a vendor by an entry point of the group ``cache_pipeline.vendors``, whose value is its `VendorSpec`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from cache_pipeline.errors import InvalidQuery, SettingsError
from cache_pipeline.query.payload import QueryPayload
from cache_pipeline.query.report import account_setting
from cache_pipeline.settings import Settings, VendorAccount, explain_problems
from cache_pipeline.vendors.served import ServedApi
from cache_pipeline.vendors.spec import VendorSpec

ENTRY_POINT_GROUP = "cache_pipeline.vendors"
_BUILT_IN = {
    name: EntryPoint(name, f"cache_pipeline.vendors.{name}:VENDOR", ENTRY_POINT_GROUP)
    for name in ("genesys", "reportdata", "cxone")
}


def vendor_names() -> list[str]:
    """Return the names of all vendors, those of this package first."""
    return list(dict.fromkeys([*_BUILT_IN, *sorted(entry_points(group=ENTRY_POINT_GROUP).names)]))


def has_vendor(name: str) -> bool:
    """Return whether a vendor has this name."""
    return name in _BUILT_IN or name in entry_points(group=ENTRY_POINT_GROUP).names


@cache
def live_query_types() -> tuple[str, ...]:
    """Return the query types of all vendors that ask for the present, sorted."""
    return tuple(sorted({kind for name in vendor_names() for kind in find_vendor(name).live}))


@cache
def find_vendor(name: str) -> VendorSpec[Any]:
    """Return the vendor of this name.

    Raises:
        SettingsError: There is no such vendor, or the package that registers it cannot be loaded.
    """
    if name in _BUILT_IN:
        return _load(_BUILT_IN[name])
    found = entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not found:
        raise SettingsError(f"unknown vendor {name!r}; expected one of {', '.join(vendor_names())}")
    if len(found) > 1:
        values = ", ".join(sorted(each.value for each in found))
        raise SettingsError(f"vendor {name} is registered several times ({values}): uninstall all packages but one")
    return _load(next(iter(found)))


def _load(entry_point: EntryPoint) -> VendorSpec[Any]:
    try:
        vendor: object = entry_point.load()
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"vendor {entry_point.name} cannot be loaded from {entry_point.value}: {error}") from error
    if not isinstance(vendor, VendorSpec) or vendor.name != entry_point.name:
        raise SettingsError(f"{entry_point.value} is not the VendorSpec of a vendor named {entry_point.name}")
    return vendor


def read_account(account_id: str, account: VendorAccount) -> VendorAccount:
    """Return an account of the settings, checked by its vendor's own model.

    Raises:
        SettingsError: The vendor is unknown, or a field is wrong; the message names the environment variable.
    """
    model = find_vendor(account_id.partition("/")[0]).account
    if isinstance(account, model):
        return account
    try:
        return model.model_validate(account.given_fields())
    except ValidationError as error:
        unknown = f"unknown field; expected one of {', '.join(model.model_fields)}"
        problems = [
            f"{account_setting(account_id, '__'.join(path))}: {message}"
            for path, message in explain_problems(error, unknown)
        ]
        raise SettingsError("; ".join(problems)) from None


def read_accounts(settings: Settings) -> dict[str, VendorAccount]:
    """Return the accounts in the settings by vendor and name, such as ``vendor/main``.

    Raises:
        SettingsError: One is wrong.
    """
    return {
        f"{vendor}/{name}": read_account(f"{vendor}/{name}", account)
        for vendor, accounts in settings.accounts.items()
        for name, account in accounts.items()
    }


def served_apis() -> list[ServedApi]:
    """Return what is answered of the vendors' own APIs, the more specific paths first."""
    found = [served for name in vendor_names() if (served := find_vendor(name).served)]
    return sorted(found, key=lambda served: -len(served.prefix))


def payload_examples() -> dict[str, Any]:
    """Return examples of queries that `read_payload` reads, by name."""
    vendors = (find_vendor(name) for name in vendor_names())
    return next((dict(vendor.payload_examples) for vendor in vendors if vendor.read_payload), {})


def read_payload(body: object) -> QueryPayload:
    """Read a query in the form of the first vendor that has one for all its queries.

    Raises:
        InvalidQuery: A field is wrong, or no vendor has such a form.
    """
    for name in vendor_names():
        if reader := find_vendor(name).read_payload:
            return reader(body)
    raise InvalidQuery("payload", "no vendor has a form for queries: use the path of a report")
