"""Checks that a grammar can hold a JSON schema, completely."""

import re
from collections.abc import Iterator
from typing import Any


ANNOTATIONS = {"$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description"}
ANNOTATIONS |= {"examples", "readOnly", "title", "writeOnly"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
# The keywords of each type. Grammars hold others (`uniqueItems`, `contains`, `not`, ...) not at all.
KEYWORDS = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": _NUMBERS,
    "number": _NUMBERS,
    "boolean": set(),
    "null": set(),
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
}
FORMATS = ("date", "time", "date-time", "duration", "uuid", "ipv4", "ipv6", "hostname", "uri")
DECIMALS = 6  # how finely a grammar knows the bounds of numbers
# Each decides a schema alone, but for annotations and, where named, a type.
ALONE = {"$ref": set(), "anyOf": set(), "allOf": set(), "const": {"type"}, "enum": {"type"}}
PYTHON_TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}


def check_schema(schema: Any, place: str = "$") -> None:
    """Raises an error for a schema of which a grammar would silently leave something out.

    Raises:
        ValueError: A keyword, or a combination of keywords, that a grammar does not hold, with its place.
    """
    if schema is True or schema == {}:
        return
    if not isinstance(schema, dict):
        raise ValueError(f"json_schema has {schema!r} at {place}, which is not a schema that something matches.")
    keywords = schema.keys() - ANNOTATIONS
    alone = [keyword for keyword in ALONE if keyword in keywords]
    for keyword in alone:
        others = sorted(keywords - {keyword} - ALONE[keyword])
        if others:
            raise ValueError(f"json_schema has {others} beside '{keyword}' at {place}: a grammar holds only one.")
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    types = _types(schema, place)
    wrong = [value for value in values if types and not any(_is_of(value, name) for name in types)]
    if wrong:
        raise ValueError(f"json_schema has the values {wrong} at {place}, which are not of type {types}.")
    if not alone:
        _check_keywords(schema, types, place)
    if len(schema.get("allOf", [{}])) != 1:
        raise ValueError(f"json_schema has 'allOf' of {len(schema['allOf'])} at {place}: a grammar holds only one.")
    for name, part in _parts(schema):
        check_schema(part, f"{place}.{name}")


def check_regex(regex: str, name: str) -> None:
    """Raises an error for a regular expression with lookaround, which xgrammar would leave out with a warning only.

    Raises:
        ValueError: There is a group that begins with "(?", other than "(?:".
    """
    found = re.search(r"\(\?[^:].?", re.sub(r"\\.", "", regex))
    if found:
        raise ValueError(
            f"{name}={regex!r} has '{found[0]}...', which no grammar holds; of these groups only '(?:...)'."
        )


def _types(schema: dict, place: str) -> list[str]:
    types = schema.get("type", [])
    types = types if isinstance(types, list) else [types]
    unknown = [name for name in types if name not in KEYWORDS]
    if unknown:
        raise ValueError(f"json_schema has the type {unknown[0]!r} at {place}, which is not one of {list(KEYWORDS)}.")
    return types


def _is_of(value: Any, name: str) -> bool:
    if isinstance(value, bool):  # which Python counts among the numbers
        return name == "boolean"
    return isinstance(value, PYTHON_TYPES[name])


def _check_keywords(schema: dict, types: list[str], place: str) -> None:
    allowed = {"type"}.union(*(KEYWORDS[name] for name in types))
    unknown = sorted(schema.keys() - ANNOTATIONS - allowed)
    if unknown:
        raise ValueError(
            f"json_schema has {unknown} at {place}, where a grammar holds {sorted(allowed | ALONE.keys())} only."
        )
    forms = [{"pattern"} & schema.keys(), {"format"} & schema.keys(), {"minLength", "maxLength"} & schema.keys()]
    if sum(map(bool, forms)) > 1:
        together = sorted(set().union(*forms))
        raise ValueError(f"json_schema has {together} at {place}: of length, pattern and format a grammar holds one.")
    if schema.get("format", FORMATS[0]) not in FORMATS:
        raise ValueError(
            f"json_schema has format={schema['format']!r} at {place}, which is not one of {list(FORMATS)}."
        )
    check_regex(schema.get("pattern", ""), f"json_schema's pattern at {place}")
    for name in sorted(_NUMBERS & schema.keys()):
        if round(schema[name], DECIMALS) != schema[name]:
            raise ValueError(f"json_schema has {name}={schema[name]!r} at {place}: more than {DECIMALS} decimals.")
    missing = sorted(set(schema.get("required", [])) - schema.get("properties", {}).keys())
    if missing:
        raise ValueError(f"json_schema requires {missing} at {place}, but its 'properties' do not have them.")
    if schema.get("additionalProperties") and (schema.get("properties") or schema.get("minProperties", 0) > 1):
        raise ValueError(
            f"json_schema has additionalProperties={schema['additionalProperties']!r} at {place} beside 'properties' "
            "or 'minProperties' above 1: a grammar does not keep their names apart."
        )


def _parts(schema: dict) -> Iterator[tuple[str, Any]]:
    """The schemas within a schema, with their places."""
    for name in ("$defs", "definitions", "properties"):
        for key, part in schema.get(name, {}).items():
            yield f"{name}.{key}", part
    for name in ("anyOf", "allOf", "prefixItems"):
        for index, part in enumerate(schema.get(name, [])):
            yield f"{name}[{index}]", part
    for name in ("items", "additionalProperties"):
        if schema.get(name, False) is not False:
            yield name, schema[name]
