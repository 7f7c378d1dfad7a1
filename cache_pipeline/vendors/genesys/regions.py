"""Genesys Cloud regions and their domains: the API is at ``api.<domain>``, the login at ``login.<domain>``."""

from __future__ import annotations

from collections.abc import Mapping

#: The 18 regions of the vendor's own SDK (269.0.0), under the SDK's names.
REGIONS: Mapping[str, str] = {
    "us_east_1": "mypurecloud.com",
    "us_east_2": "use2.us-gov-pure.cloud",
    "us_west_2": "usw2.pure.cloud",
    "ca_central_1": "cac1.pure.cloud",
    "mx_central_1": "mxc1.pure.cloud",
    "sa_east_1": "sae1.pure.cloud",
    "eu_west_1": "mypurecloud.ie",
    "eu_west_2": "euw2.pure.cloud",
    "eu_central_1": "mypurecloud.de",
    "eu_central_2": "euc2.pure.cloud",
    "eusc_de_east_1": "edee1.eusc-pure.cloud",
    "me_central_1": "mec1.pure.cloud",
    "ap_south_1": "aps1.pure.cloud",
    "ap_southeast_1": "apse1.pure.cloud",
    "ap_southeast_2": "mypurecloud.com.au",
    "ap_northeast_1": "mypurecloud.jp",
    "ap_northeast_2": "apne2.pure.cloud",
    "ap_northeast_3": "apne3.pure.cloud",
}


def region_address(region: str) -> str:
    """Return the address of the API in a region.

    Raises:
        ValueError: No region has that name.
    """
    if region not in REGIONS:
        raise ValueError(
            f"unknown region {region!r}; expected one of {', '.join(REGIONS)}, or set base_url for any other host"
        )
    return f"https://api.{REGIONS[region]}"
