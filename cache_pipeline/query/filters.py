"""Row filters in one canonical form, however they were nested, ordered or repeated (G6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

from cache_pipeline.query.boxes import EVERYTHING, Box, Boxes, condition, either, every, in_order, largest
from cache_pipeline.query.errors import QueryError
from cache_pipeline.query.written_filters import Clause, Predicate, WrittenFilter


@dataclass(frozen=True)
class Filter:
    """Which rows are meant; two filters are equal exactly when they mean the same.

    A field of this type is read from what :class:`WrittenFilter` describes.

    Attributes:
        boxes: the largest ones that it is the union of, in their order: what :meth:`of` makes of any boxes.
    """

    boxes: Boxes = EVERYTHING

    @classmethod
    def of(cls, boxes: Boxes) -> Filter:
        """The filter that allows those boxes.

        Raises:
            QueryError: they are none, so that no row can match.
        """
        if not boxes:
            raise QueryError("the filter contradicts itself, no row can match it: take out one of its conditions")
        return cls(largest(boxes))

    @classmethod
    def read(cls, said: object) -> Filter:
        """A filter as it was written.

        Raises:
            ValidationError: naming what is wrong with it, and where.
        """
        return _FILTER.validate_python(said)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read what is written, and write what is canonical."""
        return core_schema.no_info_wrap_validator_function(
            cls._read,
            handler(WrittenFilter),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda filters: filters.written),
        )

    @classmethod
    def _read(cls, said: Any, written: Callable[[Any], WrittenFilter]) -> Filter:
        return said if isinstance(said, cls) else cls.of(written(said).boxes())

    @cached_property
    def written(self) -> WrittenFilter:
        """How it is written.

        Either ``and`` with predicates of different dimensions, or ``or`` with predicates of different dimensions, or
        ``or`` with clauses that are each ``and`` with predicates.
        """
        alternatives = [_predicates(box) for box in self.boxes]
        kind = "and" if len(alternatives) == 1 else "or"
        if kind == "and" or all(len(each) == 1 for each in alternatives):
            flat = tuple(predicate for each in alternatives for predicate in each)
            return WrittenFilter(type=kind, predicates=flat)
        return WrittenFilter(type=kind, clauses=tuple(Clause(predicates=each) for each in alternatives))

    @cached_property
    def dimensions(self) -> frozenset[str]:
        """The dimensions that are spoken of."""
        return frozenset().union(*self.boxes)

    @property
    def meaning(self) -> list[list[list[object]]]:
        """What keys are made of: alternatives, each with its conditions as dimension, operator and values."""
        return [
            [
                [name, "notIn" if values.excluding else "in", in_order(values.values)]
                for name, values in sorted(box.items())
            ]
            for box in self.boxes
        ]

    def __hash__(self) -> int:
        """As equal filters have it, whatever the order of their conditions."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(frozenset(box.items()) for box in self.boxes))

    def __bool__(self) -> bool:
        """Whether any row is left out."""
        return self.boxes != EVERYTHING

    def also(self, other: Filter) -> Filter:
        """Rows that both filters let through.

        Raises:
            QueryError: there can be none.
        """
        if not other or not self:
            return self if self else other
        return Filter.of(every((self.boxes, other.boxes)))

    def renamed(self, names: Mapping[str, str]) -> Filter:
        """The same conditions, some of them on dimensions of other names.

        Raises:
            QueryError: two dimensions become one, and no row can match.
        """
        renamed = (
            every(condition(names.get(name, name), values) for name, values in box.items()) for box in self.boxes
        )
        return Filter.of(either(renamed))

    def named_values(self, dimension: str) -> tuple[str | None, ...] | None:
        """The only values that ``dimension`` can have under this filter, or None when it does not say."""
        named: frozenset[str | None] = frozenset()
        for box in self.boxes:
            values = box.get(dimension)
            if values is None or values.excluding:
                return None
            named |= values.values
        return tuple(in_order(named))


def _predicates(box: Box) -> tuple[Predicate, ...]:
    return tuple(
        Predicate(
            dimension=name,
            operator="notIn" if values.excluding else "in",
            values=tuple(in_order(values.values)),
        )
        for name, values in sorted(box.items())
    )


_FILTER = TypeAdapter(Filter)
