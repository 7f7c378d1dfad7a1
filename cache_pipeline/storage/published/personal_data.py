"""Forgets a person in the published files and their snapshots. Figures of single people are never published as such."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.query.person import Person
from cache_pipeline.storage.personal_data import Erasure
from cache_pipeline.storage.personal_files import mentions_person
from cache_pipeline.storage.published.edge_tier import EdgeTier
from cache_pipeline.storage.published.files import read_rows
from cache_pipeline.storage.published.maintenance import collect_garbage


class PublishedPersonalData:
    """The published data sets of one tenant.

    Args:
        edge: The edge tier.
        publish_again: Publishes all of a report again from history, from which the person must be gone.
        register: Makes the catalogues of the files name no deleted ones.
    """

    def __init__(self, edge: EdgeTier, publish_again: Callable[[str], None], register: Callable[[], object]) -> None:
        self._edge, self._publish_again, self._register = edge, publish_again, register

    def forget(self, person: Person) -> Iterator[Erasure]:
        """Publish again what names the person, and delete every file and snapshot that did."""
        named = self._paths_that_mention(person)
        manifest = self._edge.manifest()
        affected = [
            name for name, dataset in manifest.datasets.items() if any(file.path in named for file in dataset.files)
        ]
        if not named:
            yield Erasure("edge", self._edge.store.url)
            return
        for name in affected:
            self._publish_again(name)
        collect_garbage(self._edge, forget=True)
        left = self._paths_that_mention(person)
        note = f"publish {', '.join(affected)} again: cache-pipeline edge publish" if left else ""
        try:
            self._register()
        except EdgeStoreError as error:
            # The person is gone, but a catalogue still names files that were deleted.
            note = note or f"{error}"
        yield Erasure("edge", self._edge.store.url, removed=len(named - left), left=len(left), note=note)

    def _paths_that_mention(self, person: Person) -> set[str]:
        """Return the data files and snapshots that name the person, whether the manifest names them or not."""
        store, found = self._edge.store, set[str]()
        with store.translated_errors("looking for a person"):
            for item in store.list("data"):
                content = store.get(item.path)
                if content and mentions_person(read_rows(content[0]), person):
                    found.add(item.path)
            for item in store.list("snapshots"):
                content = store.get(item.path)
                if content and person.occurs_in(content[0]):
                    found.add(item.path)
        return found
